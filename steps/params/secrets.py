"""What counts as a secret, for whoever reads parameters: see `steps/secrets/`."""

from steps.secrets import SECRETS as SECRETS
from steps.secrets import USERINFO as USERINFO
from steps.secrets import secret_in as secret_in
from steps.secrets import without_credentials as without_credentials
from steps.secrets import without_secrets as without_secrets
