"""The official `openai` package works unchanged, with only its base URL and key."""

from collections.abc import Iterator

import openai
import pytest

from tests.gateway.conftest import MakeGateway
from tests.gateway.processes import BOOTSTRAP_KEY, Gateway, recipe


def _client(gateway: Gateway, key: str = BOOTSTRAP_KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def sdk(gateway: Gateway) -> Iterator[openai.OpenAI]:
    gateway.wait(gateway.submit(recipe("sdk-bot", gateway.upload())), "succeeded")
    with _client(gateway) as client:
        yield client


def test_files_are_made_listed_read_and_deleted(sdk: openai.OpenAI) -> None:
    made = sdk.files.create(file=("sdk.jsonl", b'{"b": 2}\n'), purpose="fine-tune")
    assert made.status == "processed"
    assert sdk.files.retrieve(made.id).filename == "sdk.jsonl"
    assert made.id in [item.id for item in sdk.files.list(limit=1)]
    assert sdk.files.content(made.id).read() == b'{"b": 2}\n'
    assert sdk.files.delete(made.id).deleted


def test_models_are_listed_and_retrieved(sdk: openai.OpenAI) -> None:
    assert {"sdk-bot", "sdk-bot-base"} <= {model.id for model in sdk.models.list()}
    assert sdk.models.retrieve("sdk-bot").owned_by == "tunewright"


def test_chat_answers_whole_and_as_a_stream(sdk: openai.OpenAI) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "one two"}]
    whole = sdk.chat.completions.create(model="sdk-bot", messages=messages)
    assert whole.choices[0].message.content == "one two"
    stream = sdk.chat.completions.create(model="sdk-bot", messages=messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "one two "


def test_errors_are_the_sdks_own_classes(sdk: openai.OpenAI, gateway: Gateway) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "too long"}]
    with pytest.raises(openai.NotFoundError) as not_found:
        sdk.chat.completions.create(model="nobody", messages=messages)
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(model="sdk-bot", messages=messages)
    assert bad.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        sdk.files.create(file=b"x", purpose="wishes")  # type: ignore[arg-type] # on purpose
    with pytest.raises(openai.NotFoundError):
        sdk.files.retrieve("file-nothing")
    with _client(gateway, "wrong") as stranger, pytest.raises(openai.AuthenticationError) as refused:
        stranger.models.list()
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.RateLimitError):
        sdk.chat.completions.create(model="sdk-bot", messages=[{"role": "user", "content": "busy"}])
    with pytest.raises(openai.APIStatusError) as large:
        sdk.files.create(file=("big.jsonl", b"x" * 300_000), purpose="fine-tune")
    assert large.value.status_code == 413
    with pytest.raises(openai.APIError, match="broke off"):
        list(sdk.chat.completions.create(model="sdk-bot", messages=[{"role": "user", "content": "break"}], stream=True))


def test_too_many_runs_are_a_rate_limit_error(make_gateway: MakeGateway) -> None:
    small = make_gateway(max_unfinished_runs="1")
    file_id = small.upload()
    run_id = small.submit(recipe("only-bot", file_id, training={"max_steps": 300, "seed": 800}))
    with _client(small) as client, pytest.raises(openai.RateLimitError) as limited:
        client.post("/runs", cast_to=object, body={"recipe": recipe("second-bot", file_id)})
    assert limited.value.response.headers["retry-after"] == "2"
    small.post(f"/v1/runs/{run_id}/cancel")
    small.wait(run_id, "cancelled")
