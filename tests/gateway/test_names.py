"""Public names and the deployments behind them: each is one project's, whoever asks for it and in which way."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tests.gateway.conftest import MakeGateway
from tests.gateway.processes import Gateway, recipe
from tunewright.chassis.errors import Conflict
from tunewright.gateway.database import OWNERS, VERSIONS, Database
from tunewright.gateway.journal import Journal
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.owners import RUN, Owners
from tunewright.gateway.versions import Cause, Versions

SHOP, EVIL = "shop", "evil"


class Project:
    """What one project does through a gateway."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        self.client = gateway.client(key)

    def submit(self, name: str, **more: Any) -> httpx.Response:  # noqa: ANN401 - JSON
        rows = {"file": ("rows.jsonl", b'{"a": 1}\n')}
        file = self.client.post("/v1/files", data={"purpose": "fine-tune"}, files=rows).json()["id"]
        return self.client.post("/v1/runs", json={"recipe": recipe(name, file, **more)})

    def run(self, name: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        answer = self.submit(name, **more)
        assert answer.is_success, answer.text
        path = f"/v1/runs/{answer.json()['id']}"
        return self.wait(path, "state", "succeeded")

    def deploy(self, name: str, artifact: str, **more: Any) -> httpx.Response:  # noqa: ANN401 - JSON
        return self.client.post(f"/v1/aliases/{name}/versions", json={"artifact": artifact, **more})

    def serving(self, name: str, number: int) -> None:
        self.wait(f"/v1/aliases/{name}", "serving", number)

    def wait(self, path: str, field: str, wanted: object) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while (found := self.client.get(path).json()).get(field) != wanted:
            assert time.monotonic() < deadline, found
            assert found.get("state") != "failed", found
            time.sleep(0.1)
        return dict(found)


@pytest.fixture(scope="module")
def keys(gateway: Gateway) -> dict[str, str]:
    tag = uuid.uuid4().hex[:6]
    made = {
        SHOP: gateway.key(f"shop-{tag}", project=SHOP),
        EVIL: gateway.key(f"evil-{tag}", project=EVIL),
        "train": gateway.key(f"shop-train-{tag}", project=SHOP, scopes=["train"]),
    }
    time.sleep(1.1)  # the ring reads its file once a second
    return made


@pytest.fixture(scope="module")
def shop(gateway: Gateway, keys: dict[str, str]) -> Iterator[Project]:
    project = Project(gateway, keys[SHOP])
    with project.client:
        yield project


@pytest.fixture(scope="module")
def evil(gateway: Gateway, keys: dict[str, str]) -> Iterator[Project]:
    project = Project(gateway, keys[EVIL])
    with project.client:
        yield project


@pytest.fixture(scope="module")
def models(shop: Project, evil: Project) -> dict[str, str]:
    """A model of each project; both on one base."""
    made = {SHOP: shop.run("shop-own", base_name="common-base"), EVIL: evil.run("evil-own", base_name="common-base")}
    return {project: str(run["artifacts"]["merge"]) for project, run in made.items()}


def test_a_name_made_by_a_deploy_is_refused_to_a_run_and_to_a_deployment_of_another_project(
    shop: Project, evil: Project, models: dict[str, str]
) -> None:
    assert shop.deploy("support-bot", models[SHOP]).is_success
    shop.serving("support-bot", 1)
    assert evil.submit("support-bot").status_code == httpx.codes.CONFLICT
    for name in ("support-bot", "support-bot-v1", "support-bot-v2", "support-bot-base"):
        answer = evil.client.post("/v1/deployments", json={"name": name, "model": models[EVIL]})
        assert answer.status_code == httpx.codes.CONFLICT, name
    assert evil.deploy("support-bot", models[EVIL]).status_code == httpx.codes.NOT_FOUND
    assert evil.deploy("support-bot-v1", models[EVIL]).status_code == httpx.codes.CONFLICT
    assert shop.client.get("/v1/aliases/support-bot").json()["serving"] == 1


def test_a_name_whose_run_has_not_promoted_yet_is_refused_to_a_deploy_of_another_project(
    shop: Project, evil: Project, models: dict[str, str]
) -> None:
    run = evil.submit("early-bot", training={"max_steps": 40, "seed": 7}).json()["id"]
    assert shop.deploy("early-bot", models[SHOP]).status_code == httpx.codes.NOT_FOUND
    evil.client.post(f"/v1/runs/{run}/cancel")
    assert shop.deploy("early-bot", models[SHOP]).status_code == httpx.codes.NOT_FOUND


def test_the_name_of_a_run_stays_its_projects_when_it_is_undeployed(gateway: Gateway, shop: Project) -> None:
    model = shop.run("left-bot")["artifacts"]["merge"]
    assert shop.client.delete("/v1/aliases/left-bot").is_success
    with gateway.client() as default:
        assert default.get("/v1/aliases/left-bot").status_code == httpx.codes.NOT_FOUND
        assert default.post("/v1/aliases/left-bot/rollback", json={}).status_code == httpx.codes.NOT_FOUND
    assert shop.client.get("/v1/aliases/left-bot").json()["serving"] is None
    assert shop.deploy("left-bot", model).is_success
    shop.serving("left-bot", 2)
    assert shop.client.get("/v1/models/left-bot").is_success
    with gateway.client() as default:
        assert default.get("/v1/models/left-bot").status_code == httpx.codes.NOT_FOUND


def test_the_name_of_a_live_deployment_is_refused_to_another_project(
    shop: Project, evil: Project, models: dict[str, str]
) -> None:
    body = {"name": "plain-service", "model": models[SHOP]}
    assert shop.client.post("/v1/deployments", json=body).is_success
    assert evil.deploy("plain-service", models[EVIL]).status_code == httpx.codes.CONFLICT
    assert evil.submit("plain-service").status_code == httpx.codes.CONFLICT


def test_a_version_is_not_filed_over_a_deployment_that_stands_under_its_name(
    shop: Project, models: dict[str, str]
) -> None:
    body = {"name": "stood-bot-v1", "model": models[SHOP]}
    assert shop.client.post("/v1/deployments", json=body).is_success
    answer = shop.deploy("stood-bot", models[SHOP])
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert "stood-bot-v1" in answer.json()["error"]["message"]


def test_a_version_brought_back_does_not_attach_to_something_else_under_its_name_and_leaves_it_running(
    gateway: Gateway, make_gateway: MakeGateway
) -> None:
    made = gateway.wait(gateway.submit(recipe("back-model", gateway.upload())), "succeeded")["artifacts"]
    own = make_gateway()
    with own.client() as mine, gateway.client() as other:
        for number in (1, 2):
            answer = mine.post("/v1/aliases/returned/versions", json={"artifact": made["merge"]})
            assert answer.is_success, answer.text
            _until(lambda n=number: mine.get("/v1/aliases/returned").json()["serving"] == n)
        _until(lambda: mine.get("/v1/aliases/returned").json()["versions"][0]["detail"] == "stopped")
        taken = other.post("/v1/deployments", json={"name": "returned-v1", "model": made["import"]})
        assert taken.is_success, taken.text
        assert mine.post("/v1/aliases/returned/rollback", json={}).is_success
        _until(lambda: mine.get("/v1/aliases/returned").json()["versions"][0]["state"] == "failed")
        version = mine.get("/v1/aliases/returned").json()["versions"][0]
        assert "something else is deployed" in version["detail"]
        time.sleep(4)  # longer than a version that lost its traffic is left alone
        standing = other.get("/v1/deployments/returned-v1").json()
        assert (standing["state"], standing["model"]) == ("ready", made["import"])
        assert mine.get("/v1/aliases/returned").json()["serving"] == 2


def _until(true: Any) -> None:  # noqa: ANN401 - a question
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_run_does_not_put_another_base_under_a_name_that_another_project_uses(
    shop: Project, evil: Project, models: dict[str, str]
) -> None:
    before = shop.client.get("/v1/deployments/common-base").json()["model"]
    run = evil.submit("swap-bot", base_name="common-base", base_model="other")
    assert run.is_success, run.text
    failed = evil.wait(f"/v1/runs/{run.json()['id']}", "state", "failed")
    assert "'common-base' is taken" in failed["failure"]["message"]
    assert shop.client.get("/v1/deployments/common-base").json()["model"] == before
    assert models


def test_a_base_is_stopped_only_once_no_other_project_has_a_model_on_it(
    shop: Project, evil: Project, models: dict[str, str]
) -> None:
    assert models
    refused = evil.client.delete("/v1/deployments/common-base")
    assert refused.status_code == httpx.codes.CONFLICT
    assert "another project" in refused.json()["error"]["message"]
    assert shop.client.get("/v1/deployments/common-base").json()["state"] == "ready"
    assert shop.client.delete("/v1/aliases/shop-own").is_success
    assert evil.client.delete("/v1/deployments/common-base").is_success


def test_a_name_that_no_fine_tuning_job_made_is_deleted_by_an_admin_only(
    gateway: Gateway, keys: dict[str, str], shop: Project, models: dict[str, str]
) -> None:
    assert shop.deploy("guarded-bot", models[SHOP]).is_success
    shop.serving("guarded-bot", 1)
    with gateway.client(keys["train"]) as train:
        for path in ("/v1/models/guarded-bot", "/v1/aliases/guarded-bot"):
            answer = train.delete(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope"), path
    assert shop.client.get("/v1/models/guarded-bot").is_success
    assert shop.client.delete("/v1/models/guarded-bot").is_success


def _key(project: str) -> KeyRecord:
    return KeyRecord(id=f"key-{project}", name=project, project=project, created_at=0, salt="", sha256="")


def _add(versions: Versions, key: KeyRecord, alias: str) -> None:
    values: dict[str, Any] = {"model": f"models/{'1' * 64}", "adapter": None, "spec": {}, "weight": 100.0, "rules": {}}
    versions.add(alias, **values, cause=Cause(who="test"), key=key)


def test_a_promotion_of_another_project_leaves_the_name_as_it_was(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/gateway.sqlite")
    owners, versions = Owners(database), Versions(database)
    _add(versions, _key(SHOP), "support-bot")
    versions.serve(versions.get("support-bot", 1), Cause(who="test"))
    owners.note(RUN, "run-evil", _key(EVIL))
    with pytest.raises(Conflict, match="taken"):
        versions.adopt("support-bot", "evil-1", f"models/{'2' * 64}", {}, Cause(who="test"), "run-evil")
    assert [(v.deployment, v.state.value) for v in versions.of("support-bot")] == [("support-bot-v1", "serving")]
    journal = Journal(database)
    with pytest.raises(Conflict, match="taken"):
        journal.create("run-evil", name="support-bot", owner="k", project=EVIL, recipe={}, stages=["x"], limit=9)
    database.close()


def test_names_from_before_they_had_owners_are_those_of_their_first_run_or_deploy(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/gateway.sqlite")
    owners, versions, journal = Owners(database), Versions(database), Journal(database)
    owners.note(RUN, "run-1", _key(SHOP))
    owners.note(RUN, "alias:deployed", _key(SHOP))
    journal.create("run-1", name="made", owner="k", project=SHOP, recipe={}, stages=["x"], limit=9)
    _add(versions, _key(SHOP), "deployed")
    _add(versions, _key("default"), "older")
    with database.write() as connection:
        connection.execute(OWNERS.delete().where(OWNERS.c.kind == "name"))
        assert connection.execute(sa.select(sa.func.count()).select_from(VERSIONS)).scalar() == 2
    again = Owners(database)
    assert [again.of_name(name) for name in ("made", "deployed", "older", "free")] == [SHOP, SHOP, "default", None]
    database.close()
