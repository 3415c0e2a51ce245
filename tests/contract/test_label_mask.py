"""What data preparation shows as learned is what the trainer learns: same ids, same mask, same refusals, same ends."""

import shutil
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from demo.base_model import load_tokenizer as load_smollm2
from demo.base_model import packaged_folder
from tests.trainer.conftest import TINY_MODEL, Conversation, exchange
from tests.trainer.reporting import Recorder
from tunewright.chassis.errors import InvalidData, Refused, TunewrightError
from tunewright.dataprep.masking import BaseTokenizer
from tunewright.dataprep.spec import Audit
from tunewright.dataprep.tokens import TokenCounter
from tunewright.trainer.base import end_token_ids, load_tokenizer
from tunewright.trainer.data import Row
from tunewright.trainer.encoding import IGNORED, Encoder
from tunewright.trainer.raw_text import TextEncoder
from tunewright.trainer.spec import TrainingSpec

MARKED = (TINY_MODEL / "chat_template.jinja").read_text(encoding="utf-8")
UNMARKED = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
TRIMMING = MARKED.replace("message['content']", "message['content'] | trim")
TEMPLATES = {"marked": MARKED, "unmarked": UNMARKED, "trimming": TRIMMING}
ROWS = [
    exchange("one?", "uno"),
    [*exchange("one?", "uno"), *exchange("two?", "dos")],
    [{"role": "system", "content": "Be\n\nbrief, 请。"}, *exchange("写代码", "def f(x):\n\treturn {'键': x}  # ok\n")],
    exchange("  spaces  around\n", "\n naïve 👩\u200d👩\u200d👧 <|im_end|> inside "),
    exchange("{{ 7 * 7 }} {% raw %}", "</think> a system of user and assistant"),
]
# Laozi, chapters 1, 8 and 11; Lu Xun, 故乡 (1921).
CHINESE = [
    "道可道，非常道；名可名，非常名。無名天地之始；有名萬物之母。故常無欲，以觀其妙；常有欲，以觀其徼。",
    "上善若水。水善利萬物而不爭，處衆人之所惡，故幾於道。居善地，心善淵，與善仁，言善信，正善治，事善能，動善時。",
    "三十輻，共一轂，當其無，有車之用。埏埴以為器，當其無，有器之用。鑿戶牖以為室，當其無，有室之用。",
    "我冒了严寒，回到相隔二千余里，别了二十余年的故乡去。时候既然是深冬；渐近故乡时，天气又阴晦了。",
    "希望是本无所谓有，无所谓无的。这正如地上的路；其实地上本没有路，走的人多了，也便成了路。",
]
REFUSED = {
    "unended": MARKED.replace("message['content'] + '<|im_end|>' }}{% endgen", "message['content'] }}{% endgen"),
    "endless": UNMARKED.replace("<|im_end|>", "END"),
    "nothing": MARKED.replace("message['role'] == 'assistant'", "message['role'] == 'tool'"),
    "rewriting": UNMARKED.replace("message['content'] +", "(message['content'] if loop.last else '…') +"),
    "strict": "{% if messages[0]['role'] == 'user' %}{{ raise_exception('no') }}{% endif %}" + MARKED,
}


def base_with(template: str, folder: Path) -> Path:
    shutil.copytree(TINY_MODEL, folder / "base")
    (folder / "base" / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder / "base"


def trainer_of(base: Path, folder: Path) -> Encoder:
    tokenizer = load_tokenizer(base, Recorder(folder / "checkpoints"))
    return Encoder(tokenizer, end_token_ids(tokenizer, base), 4096)


def trained(encoder: Encoder, messages: Conversation, folder: Path) -> tuple[list[int], list[bool]]:
    row = Row("id", messages, "train.jsonl:1")
    (example,) = encoder.encode([row], "train", Recorder(folder / "checkpoints")).examples
    return example.input_ids, [label != IGNORED for label in example.labels]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_ids_and_mask_are_the_trainers(template: str, tmp_path: Path) -> None:
    base = base_with(template, tmp_path)
    encoder, ours = trainer_of(base, tmp_path), BaseTokenizer(base)
    for messages in ROWS:
        shown = ours.label(messages)
        assert (shown.ids, shown.mask) == trained(encoder, messages, tmp_path)


def test_a_template_that_asks_for_the_date_is_told_one_date_on_every_day_in_both(tmp_path: Path) -> None:
    base = base_with("{{ strftime_now('%d %b %Y') + '\\n' }}" + MARKED, tmp_path)
    encoder, ours = trainer_of(base, tmp_path), BaseTokenizer(base)
    for messages in ROWS[:2]:
        shown = ours.label(messages)
        assert (shown.ids, shown.mask) == trained(encoder, messages, tmp_path)
        assert shown.text.startswith("26 Jul 2024\n")
    assert encoder.asks_for_date
    assert ours.asks_for_date


def test_documents_are_the_trainers(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(TINY_MODEL, Recorder(tmp_path))
    texts = ["A text.", "其一。\n其二。", "It ends by itself.<|im_end|>"]
    encoder = TextEncoder(tokenizer, 4096)
    found = encoder.encode([Row("id", [], "train.jsonl:1", text=text) for text in texts], "train", Recorder(tmp_path))
    ours = [BaseTokenizer(TINY_MODEL).label([{"role": "text", "content": text}]) for text in texts]
    assert [one.ids for one in ours] == [example.input_ids for example in found.examples]
    rows = [[{"role": "text", "content": text}] for text in texts]
    assert TokenCounter(TINY_MODEL).count(rows).tolist() == [len(one.ids) for one in ours]


@pytest.mark.heavy
def test_a_real_tokenizer_counts_and_marks_real_text_of_two_languages_as_the_trainer_does(tmp_path: Path) -> None:
    base = tmp_path / "smollm2"
    real = load_smollm2(packaged_folder())
    real.save_pretrained(base)
    paragraphs = [text for topic in topics.values() for text in topic.split("\n\n") if text.strip()][:1500]
    rows = [exchange(text, reply) for text, reply in pairwise([*paragraphs, *CHINESE])]
    counter, shown, encoder = TokenCounter(base), BaseTokenizer(base), trainer_of(base, tmp_path)
    assert counter.engine == "fastokens"
    texts = [real.apply_chat_template(row, tokenize=False) for row in rows]
    theirs = real(texts, add_special_tokens=False)["input_ids"]
    assert counter.count(rows).tolist() == [len(ids) for ids in theirs]
    for row in [*rows[:100], *rows[-len(CHINESE) :]]:
        labelled = shown.label(row)
        assert (labelled.ids, labelled.mask) == trained(encoder, row, tmp_path)


def test_lengths_are_judged_by_the_trainers_own_default() -> None:
    assert Audit().max_length == TrainingSpec().max_length


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_counts_are_the_trainers(template: str, tmp_path: Path) -> None:
    base = base_with(template, tmp_path)
    encoder = trainer_of(base, tmp_path)
    counts = TokenCounter(base).count(ROWS)
    assert counts.tolist() == [len(trained(encoder, messages, tmp_path)[0]) for messages in ROWS]


def test_turn_ends_are_the_trainers(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(TINY_MODEL, Recorder(tmp_path))
    assert BaseTokenizer(TINY_MODEL).end_ids == end_token_ids(tokenizer, TINY_MODEL)


@pytest.mark.parametrize("template", REFUSED.values(), ids=REFUSED)
def test_what_the_trainer_refuses_is_refused_before(template: str, tmp_path: Path) -> None:
    base = base_with(template, tmp_path)
    encoder, ours = trainer_of(base, tmp_path), BaseTokenizer(base)
    messages = ROWS[1]
    with pytest.raises(TunewrightError) as theirs:
        trained(encoder, messages, tmp_path)
    with pytest.raises((InvalidData, Refused)) as here:
        ours.label(messages)
    assert type(here.value) is type(theirs.value)
    assert theirs.value.message.endswith(here.value.message)
