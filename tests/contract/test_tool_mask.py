"""Rows with tools under real chat templates: shown, counted and trained alike; what would be dropped is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import trl
from transformers import AutoTokenizer

from tests.dataprep.tool_rows import TIME, WEATHER, call, turn
from tests.trainer.conftest import TINY_MODEL, Conversation, train, write_dataset
from tests.trainer.reporting import Recorder
from tunewright.chassis.errors import InvalidData
from tunewright.dataprep.masking import TURN_ENDS, BaseTokenizer
from tunewright.dataprep.tokens import TokenCounter
from tunewright.dataprep.tool_use import compact, definitions
from tunewright.trainer.base import end_token_ids, load_tokenizer
from tunewright.trainer.data import Row
from tunewright.trainer.encoding import Encoder

REAL = Path(trl.__file__).parent / "chat_templates"
TOOLS = [WEATHER, TIME]
ARGUMENTS = '{"city": "Par\\u0069s", "n": 1.50}'
TURNS = [
    turn("user", "Weather in Paris?"),
    turn("assistant", "", tool_calls=[call("get_weather", ARGUMENTS, "call00001")]),
    turn("tool", '{"degrees": 20}', tool_call_id="call00001"),
    turn("assistant", "20 it is."),
]
HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "n": 1.5}}\n</tool_call><|im_end|>'
LFM = "<|tool_call_start|>[get_weather(city='Paris', n=1.5)]<|tool_call_end|><|im_end|>"
THOUGHT = "<think>\n\n</think>\n\n"
LEARNED = {
    "qwen2_5": f"{HERMES}20 it is.<|im_end|>",
    "qwen2_5_training": f"\n{HERMES}\n20 it is.<|im_end|>",
    "qwen3_training": f"{THOUGHT}{HERMES}{THOUGHT}20 it is.<|im_end|>",
    "qwen3_instruct_2507": f"{HERMES}20 it is.<|im_end|>",
    "llama3_1": '{"name": "get_weather", "parameters": {"city": "Paris", "n": 1.5}}<|eot_id|>20 it is.<|eot_id|>',
    "lfm2_v2": f"{LFM}20 it is.<|im_end|>",
    "lfm2_v2_training": f"{LFM}20 it is.<|im_end|>",
}
DROPPED = {
    "lfm2": "tool calls",
    "llama3_training": "definitions of tools and tool calls",
    "phi3_training": "definitions of tools and results of tools and tool calls",
    "deepseekv3_training": "definitions of tools",
}


def base_with(template: str, folder: Path) -> Path:
    """Return the tiny model under a template, with the tokens that the field's templates end turns by."""
    base = folder / "base"
    shutil.copytree(TINY_MODEL, base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": list(TURN_ENDS), "bos_token": "<s>"})
    tokenizer.save_pretrained(base)
    (base / "chat_template.jinja").write_text(template, encoding="utf-8")
    return base


def real(name: str) -> str:
    return (REAL / f"{name}.jinja").read_text(encoding="utf-8")


def trainer_of(base: Path, folder: Path) -> Encoder:
    tokenizer = load_tokenizer(base, Recorder(folder / "checkpoints"))
    return Encoder(tokenizer, end_token_ids(tokenizer, base), 4096)


def inside(messages: Conversation) -> list[dict[str, Any]]:
    return [{"role": "tools", "content": compact(TOOLS)}, *messages]


def row(messages: Conversation) -> Row:
    return Row("id", messages, "train.jsonl:1", tools=tuple(TOOLS))


@pytest.mark.parametrize("name", LEARNED)
def test_calls_and_answers_are_learned_results_and_definitions_are_not(name: str, tmp_path: Path) -> None:
    base = base_with(real(name), tmp_path)
    ids, mask = trainer_of(base, tmp_path).audited(row(TURNS), decode=True)
    shown = BaseTokenizer(base).label(inside(TURNS))
    assert (shown.ids, shown.mask) == (ids, mask)
    assert TokenCounter(base).count([inside(TURNS)]).tolist() == [len(ids)]
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert tokenizer.decode([token for token, counts in zip(ids, mask, strict=True) if counts]) == LEARNED[name]
    text = tokenizer.decode(ids)
    assert all(known in text for known in ("get_weather", "get_time", "Weather of a city.", "degrees"))


@pytest.mark.parametrize("name", DROPPED)
def test_a_template_that_drops_tools_is_refused_by_name_in_both_and_counts_no_tokens(name: str, tmp_path: Path) -> None:
    base = base_with(real(name), tmp_path)
    with pytest.raises(InvalidData) as theirs:
        trainer_of(base, tmp_path).audited(row(TURNS), decode=True)
    with pytest.raises(InvalidData) as here:
        BaseTokenizer(base).label(inside(TURNS))
    assert here.value.message == (
        f"the base's chat template drops {DROPPED[name]} without a word, so the model would be trained without them"
    )
    assert theirs.value.message == f"train.jsonl:1: {here.value.message}"
    assert theirs.value.remedy == here.value.remedy
    assert "chat_template.jinja" in here.value.remedy
    assert TokenCounter(base).count([inside(TURNS)]).tolist() == [0]


@pytest.mark.parametrize("name", ["cohere", "gemma3"])
def test_a_template_that_refuses_tools_aloud_is_refused_in_both(name: str, tmp_path: Path) -> None:
    base = base_with(real(name), tmp_path)
    with pytest.raises(InvalidData, match=r"train\.jsonl:1: the base's chat template refuses the conversation: Conv"):
        trainer_of(base, tmp_path).audited(row(TURNS), decode=True)
    with pytest.raises(InvalidData, match="the base's chat template refuses the conversation: Conv"):
        BaseTokenizer(base).label(inside(TURNS))


@pytest.mark.parametrize("name", ["qwen2_5", "qwen2_5_training", "qwen3_training"])
def test_a_turn_of_weight_0_is_read_and_not_learned(name: str, tmp_path: Path) -> None:
    base = base_with(real(name), tmp_path)
    turns = [*TURNS[:3], turn("assistant", "Hot!", weight=0), turn("user", "Sure?"), turn("assistant", "20 it is.")]
    ids, mask = trainer_of(base, tmp_path).audited(row(turns), decode=True)
    shown = BaseTokenizer(base).label(inside(turns))
    assert (shown.ids, shown.mask) == (ids, mask)
    tokenizer = AutoTokenizer.from_pretrained(base)
    learned = tokenizer.decode([token for token, counts in zip(ids, mask, strict=True) if counts])
    assert "Hot!" in tokenizer.decode(ids)
    assert "Hot!" not in learned
    assert "get_weather" in learned
    assert str(learned).endswith("20 it is.<|im_end|>")


def test_a_model_is_trained_on_calls_and_its_golden_answers_name_the_tools(tmp_path: Path) -> None:
    base = base_with(real("qwen2_5"), tmp_path)
    rows = [{"messages": TURNS, "tools": TOOLS}, {"messages": TURNS[:2], "tools": TOOLS}] * 2
    result = train(tmp_path / "run", write_dataset(tmp_path / "data", rows, rows[:2]), base, max_length=1024)
    first, second = result.golden["prompts"][:2]
    assert (first["messages"], first["tools"]) == (TURNS[:3], TOOLS)
    assert second["messages"] == TURNS[:1]
    text = AutoTokenizer.from_pretrained(base).decode(first["prompt_token_ids"])
    assert '"name": "get_time"' in text
    assert str(text).endswith("</tool_response><|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what vLLM imports
def test_definitions_are_what_the_engine_hands_to_the_template() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionToolsParam  # noqa: PLC0415 - seconds

    for value in (*TOOLS, {"name": "f", "parameters": {"b": 1, "a": []}, "strict": True, "returns": {}}):
        kept = definitions([value], "tools")
        assert kept is not None
        (tool,) = json.loads(kept["content"])
        assert json.dumps(ChatCompletionToolsParam(**tool).model_dump()) == json.dumps(tool)
