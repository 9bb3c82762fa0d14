"""How answers are generated: by which engine, and with which settings of decoding."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from steps.errors import Problem, shown
from steps.params.group import Group, Renamed
from steps.params.several import JSON
from steps.params.training import DTYPES

EngineName = Literal["auto", "accelerate", "deepspeed", "deepspeed_zero", "vllm", "endpoint"]
# Other names of inference_precision's values; kfp's command line would send 16 and 32 as numbers.
WIDTHS = {name: {"32": "full", "16": "half"}[bits] for name, bits in {**DTYPES, "32": "32", "16": "16"}.items()}
# Removed from transformers: parameter → the values that mean the same as its absence, and what it was.
REMOVED: dict[str, tuple[tuple[float, ...], str]] = {
    "num_beam_groups": ((1,), "group beam search"),
    "penalty_alpha": ((0.0,), "contrastive search"),
}


def _is_address(url: str) -> bool:
    """Return whether a text is the URL of a web server."""
    try:
        parts = urlsplit(url)
        port = parts.port  # raises ValueError for a number that no port has
    except ValueError:
        return False
    named = bool(parts.hostname) and not any(one.isspace() or not one.isprintable() for one in url)
    return parts.scheme in ("http", "https") and named and port != 0


class DecodingParams(Group):
    """How an answer is written, token by token."""

    max_new_tokens: int = Field(512, ge=0)
    """Longest answer in tokens; 0: what max_inference_length leaves after the prompt."""

    max_inference_length: int = Field(20, ge=1)
    """Longest prompt and answer together in tokens, used with max_new_tokens=0 only."""

    max_length: int = Field(2048, ge=2)
    """Longest prompt and answer together in tokens; a prompt over max_length - max_new_tokens loses its start."""

    min_length: int = Field(0, ge=0)
    """Shortest prompt and answer together in tokens: no end token before."""

    min_new_tokens: int = Field(0, ge=0)
    """Shortest answer in tokens: no end token before."""

    do_sample: bool = False
    """Draw each token from its probabilities; false takes the most probable one."""

    temperature: float = Field(1.0, gt=0)
    """Logits are divided by this before a token is drawn: below 1 more certain, above 1 more varied."""

    top_k: int = Field(50, ge=0)
    """Draw among this many most probable tokens only; 0: among all."""

    top_p: float = Field(1.0, gt=0, le=1)
    """Draw among the most probable tokens whose probabilities add up to this."""

    min_p: float = Field(0.0, ge=0, le=1)
    """Draw among tokens that have at least this share of the highest probability."""

    repetition_penalty: float = Field(1.0, gt=0)
    """Logits of tokens that occurred already are divided by this (negative ones multiplied); 1: no penalty."""

    no_repeat_ngram_size: int = Field(0, ge=0)
    """No sequence of this many tokens occurs twice in an answer; 0: no limit."""

    num_beams: int = Field(1, ge=1)
    """Beams of beam search; 1: none."""

    length_penalty: float = 1.0
    """Exponent of the length that the score of a beam is divided by."""

    early_stopping: Literal["false", "true", "never"] = "false"
    """End of beam search: true at num_beams finished beams, false where a better one is unlikely, never impossible."""

    num_beam_groups: int = Field(1, ge=1)
    """Groups of beams; more than 1 is refused, because transformers no longer has group beam search."""

    penalty_alpha: float = Field(0.0, ge=0)
    """Contrastive search; above 0 is refused, because transformers no longer has it."""

    num_return_sequences: int = Field(1, ge=1)
    """Answers for each prompt; more than 1 needs do_sample=true or as many beams."""

    eos_tokens: str = ""
    """Further end tokens: ids separated by commas, as 128009, or the tokens themselves."""

    stop_strings: Annotated[str, JSON] = ""
    """JSON list of texts that end an answer; the answer ends before the text."""

    skip_special_tokens: bool = False
    """Leave special tokens out of the answers' texts."""

    use_cache: bool = True
    """Keep keys and values of earlier tokens; false computes them again for each token: slower, same answers."""

    response_format: Annotated[str, JSON] = ""
    """Form of the answers as JSON, {"json_schema": {…}}, {"regex": "…"} or {"choices": […]}; needs vllm or endpoint."""

    logprobs: bool = False
    """Also write the log-probability of every token of the answers."""

    generation_seed: int = Field(42, ge=0)
    """Seed of do_sample; each row and each of its answers draws from a seed of its own."""

    hf_gen_params: dict[str, Any] = Field(default_factory=dict)
    """Further fields of transformers' GenerationConfig by name, as JSON; override parameters of the same meaning."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse what transformers removed, and several answers that would all be equal."""
        for name, (neutral, what) in REMOVED.items():
            if (value := getattr(self, name)) not in neutral:
                yield Problem("PARAM-E0311", name, shown(value), shown(neutral[0]), "leave it out, or use num_beams",
                              why=f"transformers no longer has {what}")  # fmt: skip
        if self.num_return_sequences > 1 and not self.do_sample and self.num_beams < self.num_return_sequences:
            yield Problem("PARAM-E0312", "num_return_sequences", f"{self.num_return_sequences} with do_sample=false",
                          "1, or do_sample=true", "set do_sample=true",
                          why="without drawing, all answers to a prompt would be equal")  # fmt: skip


class EngineParams(Group):
    """What computes the answers."""

    inference_type: Annotated[EngineName, Renamed(values={"transformers": "accelerate", "zero": "deepspeed_zero"})] = (
        "accelerate"
    )
    """Engine: accelerate (transformers), deepspeed, deepspeed_zero, vllm, endpoint; auto: vllm with a GPU, if there."""

    test_batch_size: int = Field(8, ge=1)
    """Prompts at a time for accelerate and deepspeed; vllm and an endpoint choose themselves."""

    inference_precision: Annotated[Literal["auto", "full", "half"], Renamed(values=WIDTHS)] = "auto"
    """Numbers: full has 32 bits, half 16 (bfloat16, else float16); auto: half on a GPU, full on the CPU."""

    replace_with_kernel_inject: bool = True
    """For deepspeed: use DeepSpeed's own kernels, which need a GPU and an architecture that it knows."""

    cpu_offload: bool = False
    """For deepspeed_zero: keep the weights in the machine's memory; each layer goes to the GPU when it computes."""

    tensor_parallel_size: int = Field(1, ge=1)
    """For vllm and deepspeed: GPUs that share each layer."""

    vllm_gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """For vllm: share of a GPU's memory that it may use."""

    enable_prefix_caching: bool = True
    """For vllm: compute the common start of prompts once."""

    adapter_separate: bool = False
    """Serve adapter_path beside its base instead of merging it: with vllm and accelerate."""

    inference_processes: int = Field(0, ge=0)
    """Processes that share rows and GPUs; 0: with accelerate one for each GPU that holds the model, else one."""

    endpoint_url: str = ""
    """For endpoint: base URL of an OpenAI-compatible server, such as http://model.team.svc/v1."""

    endpoint_model: str = ""
    """For endpoint: name of the model there; empty: the only one that the server lists."""

    endpoint_key_secret: str = Field("endpoint-key", min_length=1)
    """For endpoint: Kubernetes secret with the key `token`, given as OPENAI_API_KEY; ignored if there is none."""

    endpoint_concurrency: int = Field(16, ge=1)
    """For endpoint: requests at the same time."""

    endpoint_requests_per_minute: int = Field(0, ge=0)
    """For endpoint: most requests in a minute; 0: no limit of our own."""

    endpoint_timeout_seconds: int = Field(100, ge=1)
    """For endpoint: longest wait for one answer, after which the server counts as not available."""

    def conflicts(self) -> Iterator[Problem]:
        """Require the address of an endpoint, and refuse one without use."""
        if self.inference_type == "endpoint" and not self.endpoint_url:
            yield Problem("PARAM-E0313", "endpoint_url", "nothing", "the address of a server",
                          "set endpoint_url=http://…/v1, or another inference_type")  # fmt: skip
        if self.inference_type == "endpoint" and self.inference_processes > 1:
            yield Problem("PARAM-E0319", "inference_processes", f"{self.inference_processes} with endpoint", "0 or 1",
                          "set endpoint_concurrency instead", why="one process keeps a server busy")  # fmt: skip
        if self.endpoint_url and not _is_address(self.endpoint_url):
            yield Problem("PARAM-E0321", "endpoint_url", shown(self.endpoint_url), "an address as http://model.team.svc/v1",
                          "correct it")  # fmt: skip
        if self.endpoint_url and self.inference_type != "endpoint":
            yield Problem("PARAM-E0313", "endpoint_url", f"set with inference_type={self.inference_type}",
                          "inference_type=endpoint", "set inference_type=endpoint, or leave it out")  # fmt: skip
