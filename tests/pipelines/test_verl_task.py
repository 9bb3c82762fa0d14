"""The task finetune of a training with verl: that of every training, in an image of its own."""

import os
import subprocess
import sys

import pytest
import yaml

from pipelines import components
from pipelines.images import CORE, IMAGES, TRAIN, VERL
from pipelines.profile import Profile
from pipelines.profiled import images_of
from pipelines.signature import pipeline
from pipelines.supervised import Outputs, supervised
from steps.params.pipelines.chat_completion import ChatCompletionParameters


def test_both_components_have_the_same_inputs_outputs_and_name():
    one, other = components.finetune.component_spec, components.finetune_verl.component_spec
    assert (one.name, one.inputs, one.outputs) == (other.name, other.inputs, other.outputs)
    assert (one.implementation.container.image, other.implementation.container.image) == (TRAIN, VERL)


def test_each_runs_its_own_function_of_the_module():
    command = components.finetune_verl.component_spec.implementation.container.command
    assert command[-1] == "finetune_verl"
    program = "from pipelines.in_pod import function_of; print(function_of({}, 'finetune_verl').__name__)"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "_KFP_RUNTIME": "true"}, capture_output=True, text=True
    )
    assert done.stdout == "finetune_verl\n", done.stderr


@pytest.fixture(scope="module")
def graphs(tmp_path_factory) -> dict[str, dict]:
    """The same pipeline compiled with either component."""
    from kfp import compiler

    made = {}
    for trainer in (components.finetune, components.finetune_verl):

        def flow(p, plan, trainer=trainer) -> Outputs:
            return supervised(p, plan, components.evaluate, trainer=trainer)

        flow.__name__ = flow.__qualname__ = "chat_completion"
        file = tmp_path_factory.mktemp("graph") / "made.yaml"
        image = trainer.component_spec.implementation.container.image
        compiler.Compiler().compile(pipeline(ChatCompletionParameters)(flow), str(file))
        made[image] = next(yaml.load_all(file.read_text(), yaml.CSafeLoader))
    return made


@pytest.mark.slow
def test_only_the_task_that_trains_differs(graphs):
    containers = graphs[VERL]["deploymentSpec"]["executors"]
    assert {name for name, one in containers.items() if one["container"]["image"] == VERL} == {"exec-finetune"}
    training = containers["exec-finetune"]["container"]
    training["image"] = TRAIN
    training["command"] = [word.replace("finetune_verl", "finetune") for word in training["command"]]
    assert graphs[VERL] == graphs[TRAIN]


def test_a_profile_names_each_image_as_a_whole():
    named = {"core": "c@sha256:1", "train": "t:2", "verl": "v@sha256:3"}
    assert images_of(Profile.model_validate({"images": named})) == dict(
        zip((CORE, TRAIN, VERL), named.values(), strict=True)
    )
    assert set(IMAGES) == {CORE, TRAIN, VERL}
