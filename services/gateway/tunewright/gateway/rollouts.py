"""Versions on their way: what people ask for, and the thread that brings it about.

Deploy, promote, roll back, undeploy only write down what is wanted, with who and why; the thread starts deployments,
gives them traffic once they answer, lets the canary's rules judge, and stops what nobody needs after its answers have
ended. It starts from the database alone, so that a killed gateway goes on where it was. Knows no HTTP.
"""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from tunewright.artifacts import ArtifactRef, Kind, Store
from tunewright.chassis.errors import Conflict, InvalidSpec, NotFound, TunewrightError, Unavailable, Violation
from tunewright.chassis.records import ref_to_proto
from tunewright.gateway import merging, stages
from tunewright.gateway.canary import Rules, Verdict, judge
from tunewright.gateway.clients import Room, Rooms
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.owners import taken
from tunewright.gateway.recipe import NAME, spec_message
from tunewright.gateway.routing import Routes
from tunewright.gateway.traffic import Traffic
from tunewright.gateway.versions import ALL_TRAFFIC, CANDIDATES, GONE, Cause, Version, Versions, VersionState
from tunewright.v1 import inference_pb2

_BUSY_SECONDS = 0.05
_IDLE_SECONDS = 1.0
_SETTLE_SECONDS = 2.5
"""Every gateway has looked the routes up again by then; only then is a version that lost its traffic drained."""
_DRAIN_SECONDS = 120.0
_STOPPED = inference_pb2.DEPLOYMENT_STATE_STOPPED
_RULES = Cause(who="canary rules")
_ROLLOUT = Cause(who="rollout")

_log = logging.getLogger(__name__)


class _NotOurs(Conflict):
    """What stands under the name of a version's deployment is not that version."""


class Rollouts:
    """Moves versions. Thread-safe."""

    def __init__(self, versions: Versions, rooms: Rooms, routes: Routes, traffic: Traffic, store: Store) -> None:
        self.versions = versions
        self.traffic = traffic
        self._rooms = rooms
        self._routes = routes
        self._store = store
        self._wake = threading.Event()
        self._judged: dict[tuple[str, int], str] = {}
        self._draining: set[str] = set()
        self._merge_reasons: dict[ArtifactRef, str] = {}

    def launch(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="rollouts", daemon=True).start()

    def deploy(
        self,
        alias: str,
        artifact: ArtifactRef,
        *,
        base: ArtifactRef | None = None,
        spec: Mapping[str, Any],
        weight: float,
        rules: Mapping[str, Any],
        cause: Cause,
        key: KeyRecord,
    ) -> Version:
        """File a new version of a public name: a model, or an adapter on the base it was trained on.

        Raises:
            InvalidSpec: a wrong name, weight, rule, setting or kind of artifact.
            NotFound: the store has no such artifact.
            Conflict: the name is another project's, its next deployment's name is taken, or it has a candidate already.
        """
        _check(alias, weight)
        Rules.of(rules)
        adapter = artifact if artifact.kind is Kind.ADAPTER else None
        model = (base or merging.base_of(self._store, artifact)) if adapter else artifact
        request = _request(f"{alias}-v0", model, adapter, spec, "")
        request.validate_only = True
        self._rooms.call(Room.INFERENCE, self._rooms.inference.Deploy, request)
        found = self.versions.add(
            alias,
            model=str(model),
            adapter=str(adapter) if adapter else None,
            spec=spec,
            weight=weight,
            rules=rules,
            cause=cause,
            key=key,
            standing={item.name for item in self._rooms.deployments() if item.state != _STOPPED},
        )
        self._wake.set()
        return found

    def promote(self, alias: str, number: int | None, weight: float, cause: Cause) -> Version:
        """Give a candidate all traffic, or another share of it.

        Raises:
            NotFound: no such name or version.
            Conflict: there is no candidate, or it does not answer yet.
        """
        _check(alias, weight)
        known = self.versions.known(alias)
        found = [v for v in known if (v.number == number if number else v.state in CANDIDATES)]
        if not found:
            raise (NotFound(f"{alias!r} has no version {number}") if number else _no_candidate(alias))
        version = found[-1]
        if version.state in GONE:
            self._bring_back(known, version, cause, "promote")
        elif version.state is VersionState.SERVING:
            raise Conflict(f"version {version.number} of {alias!r} has all traffic already")
        elif version.state is VersionState.STARTING:
            self.versions.change(version, version.state, cause, "promote", data={"weight": weight}, weight=weight)
        elif weight >= ALL_TRAFFIC:
            self.versions.serve(version, cause)
        else:
            data = {"weight": weight}
            self.versions.change(version, VersionState.CANARY, cause, "weight", data=data, weight=weight)
        self._moved()
        return self.versions.get(alias, version.number)

    def roll_back(self, alias: str, number: int | None, cause: Cause) -> Version:
        """Take a candidate's traffic away; without a candidate, bring back what served before, or version `number`.

        Raises:
            NotFound: no such name or version.
            Conflict: nothing served before.
        """
        known = self.versions.known(alias)
        candidates = [version for version in known if version.state in CANDIDATES]
        if number is None and candidates:
            self.versions.change(candidates[-1], VersionState.ROLLED_BACK, cause, "rollback")
            self._moved()
            return self.versions.get(alias, candidates[-1].number)
        if candidates:
            raise Conflict(
                f"version {candidates[-1].number} of {alias!r} is a candidate", remedy="Roll that one back first."
            )
        before = [v for v in known if v.state is VersionState.RETIRED and v.served_at is not None]
        wanted = [v for v in known if v.number == number] if number else sorted(before, key=lambda v: v.served_at or 0)
        if not wanted:
            raise (NotFound(f"{alias!r} has no version {number}") if number else _nothing_before(alias))
        if wanted[-1].state is VersionState.SERVING:
            raise Conflict(f"version {number} of {alias!r} has all traffic already")
        self._bring_back(known, wanted[-1], cause, "rollback")
        self._moved()
        return self.versions.get(alias, wanted[-1].number)

    def undeploy(self, alias: str, cause: Cause) -> None:
        """Take a public name away; its versions finish their answers and are stopped.

        Raises:
            NotFound: there is no such name.
        """
        self.versions.close(alias, cause)
        self._moved()

    def judged(self, version: Version) -> str:
        """Return what the rules said of a canary last; empty if nothing."""
        return self._judged.get((version.alias, version.number), "")

    def _bring_back(self, known: list[Version], version: Version, cause: Cause, action: str) -> None:
        if any(other.state in CANDIDATES for other in known):
            raise Conflict(f"{version.alias!r} has a candidate", remedy="Promote it or roll it back first.")
        data = {"was": version.state.value}
        values = {"weight": ALL_TRAFFIC, "live": True}
        self.versions.change(version, VersionState.STARTING, cause, action, data=data, **values)

    def _moved(self) -> None:
        self._routes.forget()
        self._wake.set()

    def _run(self) -> None:
        while True:
            busy = False
            try:
                busy = self._round()
            except TunewrightError as error:
                _log.warning("rollouts wait: %s", error.message)
            except Exception:  # noqa: BLE001 - the border of the thread: rollouts never end unheard
                _log.exception("a round of rollouts failed")
            self._wake.wait(_BUSY_SECONDS if busy else _IDLE_SECONDS)
            self._wake.clear()

    def _round(self) -> bool:
        """Look at everything once; return True if something is under way."""
        live = self.versions.live()
        for version in live:
            try:
                self._look(version)
            except _NotOurs as error:
                self._fail(version, error.message, live=False)
            except Unavailable as error:
                self.versions.tell(version, f"waiting: {error.message}")
            except TunewrightError as error:
                _log.error(
                    "a version failed", extra={"alias": version.alias, "version": version.number}, exc_info=error
                )
                self._fail(version, error.message)
        return any(version.state is VersionState.STARTING for version in live)

    def _look(self, version: Version) -> None:
        if version.state is VersionState.STARTING:
            self._start(version)
        elif version.state is VersionState.CANARY:
            self._judge(version)
        elif version.state is VersionState.SERVING:
            self._keep(version)
        elif version.state in GONE:
            self._stop(version)

    def _keep(self, version: Version) -> None:
        """Deploy a serving version again that inference lost, unless it was stopped to make room for another one."""
        served = self._routes.table().get(version.alias)
        if served is None or not served.absent or served.version != version.number:
            return
        others = self.versions.of(version.alias)
        if any(v.state is VersionState.STARTING and v.weight >= ALL_TRAFFIC for v in others):
            return
        adapter = ArtifactRef.parse(version.adapter) if version.adapter else None
        request = _request(version.deployment, ArtifactRef.parse(version.model), adapter, version.spec, "")
        try:
            self._deployed(request)
        except TunewrightError as error:  # it stays the serving version, whatever inference says
            _log.warning("a serving version is not back yet: %s", error.message, extra={"alias": version.alias})

    def _start(self, version: Version) -> None:
        model, adapter = ArtifactRef.parse(version.model), version.adapter and ArtifactRef.parse(version.adapter)
        if adapter and (why := self._why_merge(adapter)):
            self._merge(version, adapter, model, why)
            return
        serving = self._serving(version.alias)
        swap = serving.deployment if serving and version.weight >= ALL_TRAFFIC else ""
        request = _request(version.deployment, model, adapter or None, version.spec, swap)
        deployment = self._deployed(request)
        if deployment.state == inference_pb2.DEPLOYMENT_STATE_FAILED:
            error = stages.error_of(deployment.failure, "the deployment failed without saying why")
            self._fail(version, error.message)
        elif deployment.state == inference_pb2.DEPLOYMENT_STATE_READY:
            self._ready(version, serving, deployment.detail)
        else:
            self.versions.tell(version, deployment.detail)

    def _why_merge(self, adapter: ArtifactRef) -> str:
        """Return why an adapter has to be merged; artifacts never change, so each is looked at once."""
        if adapter not in self._merge_reasons:
            self._merge_reasons[adapter] = merging.why_merge(self._store, adapter)
        return self._merge_reasons[adapter]

    def _deployed(self, request: inference_pb2.DeployRequest) -> inference_pb2.Deployment:
        """Return a version's deployment as it stands; it is asked for if there is none yet, or none any more.

        Raises:
            _NotOurs: something else is served under its name.
        """
        try:
            found = self._rooms.deployment(request.name)
        except NotFound:
            found = inference_pb2.Deployment(state=_STOPPED)
        if found.state != _STOPPED:
            if found.model != request.model or found.adapter != request.adapter:
                raise _NotOurs(taken(request.name).message + ": something else is deployed under it")
            return found
        return self._rooms.call(Room.INFERENCE, self._rooms.inference.Deploy, request).deployment

    def _ready(self, version: Version, serving: Version | None, proof: str) -> None:
        data = {"proof": proof}
        self.versions.tell(version, proof)
        if serving is None or version.weight >= ALL_TRAFFIC:
            self.versions.serve(version, _ROLLOUT, "serving", data)
        elif version.weight > 0:
            data["weight"] = str(version.weight)
            self.versions.change(version, VersionState.CANARY, _ROLLOUT, "canary", data=data)
        else:
            self.versions.change(version, VersionState.STANDBY, _ROLLOUT, "standby", data=data)
        self._moved()

    def _merge(self, version: Version, adapter: ArtifactRef, model: ArtifactRef, why: str) -> None:
        merged = merging.merge(self._rooms, self._store, adapter, model)
        self.versions.tell(version, f"vLLM cannot serve this adapter on its base: {why}; it is being merged")
        if merged is not None:
            cause = Cause(who="rollout", why=f"vLLM cannot serve this adapter on its base: {why}")
            data = {"adapter": str(adapter), "model": str(merged)}
            values = {"model": str(merged), "adapter": None}
            self.versions.change(version, VersionState.STARTING, cause, "merge", data=data, **values)
            self._wake.set()

    def _judge(self, version: Version) -> None:
        rules = Rules.of(version.rules)
        serving = self._serving(version.alias)
        age = time.time() - version.changed_at
        window = min(rules.window_seconds, age)
        mine = self.traffic.figures((version.alias, version.number), window)
        theirs = self.traffic.figures((version.alias, serving.number if serving else 0), window)
        verdict, why = judge(rules, mine, theirs, age)
        key = (version.alias, version.number)
        data = {"canary": mine.to_dict(), "serving": theirs.to_dict(), "window_seconds": round(window, 1)}
        cause = Cause(who=_RULES.who, why=why)
        before, self._judged[key] = self._judged.get(key), f"{verdict.value}: {why}"
        if verdict is Verdict.ROLL_BACK:
            self.versions.change(version, VersionState.ROLLED_BACK, cause, "rollback", data=data)
            self._moved()
        elif verdict is Verdict.PASS and rules.auto_promote:
            self.versions.serve(version, cause, data=data)
            self._moved()
        elif verdict is Verdict.PASS and not (before or "").startswith(Verdict.PASS.value):
            self.versions.note(version.alias, "passed", version.number, cause, data)

    def _fail(self, version: Version, why: str, *, live: bool = True) -> None:
        """Give a version up; unless `live`, its deployment is not its own and is left alone."""
        cause = Cause(who="rollout", why=why)
        if version.state in GONE:
            return
        self.versions.change(version, VersionState.FAILED, cause, "failed", detail=why, live=live)
        self._moved()
        serving = self._serving(version.alias)
        if serving is not None:  # it may have been stopped to make room for the one that failed
            adapter = ArtifactRef.parse(serving.adapter) if serving.adapter else None
            request = _request(serving.deployment, ArtifactRef.parse(serving.model), adapter, serving.spec, "")
            self._rooms.call(Room.INFERENCE, self._rooms.inference.Deploy, request)

    def _stop(self, version: Version) -> None:
        """Stop a deployment that lost its traffic, in a thread of its own, since its answers may take their time."""
        if time.time() - version.changed_at < _SETTLE_SECONDS or version.deployment in self._draining:
            return
        self._draining.add(version.deployment)
        threading.Thread(target=self._drain, args=(version,), name="drain", daemon=True).start()

    def _drain(self, version: Version) -> None:
        try:
            self._routes.drain(version.deployment, _DRAIN_SECONDS)
            if self.versions.get(version.alias, version.number).state not in GONE:
                return  # it was brought back meanwhile
            try:
                self._rooms.undeploy(version.deployment)
            except NotFound:
                _log.info("a deployment to stop is gone already", extra={"deployment": version.deployment})
            self.versions.gone(version)
            self.traffic.forget((version.alias, version.number))
            self._judged.pop((version.alias, version.number), None)
        except TunewrightError as error:
            _log.warning("a deployment is not stopped yet: %s", error.message)
        finally:
            self._draining.discard(version.deployment)

    def _serving(self, alias: str) -> Version | None:
        return next((found for found in self.versions.of(alias) if found.state is VersionState.SERVING), None)


def _request(
    name: str, model: ArtifactRef, adapter: ArtifactRef | None, spec: Mapping[str, Any], replaces: str
) -> inference_pb2.DeployRequest:
    return inference_pb2.DeployRequest(
        name=name,
        model=ref_to_proto(model),
        adapter=ref_to_proto(adapter) if adapter else None,
        spec=spec_message("spec", inference_pb2.DeploymentSpec, spec),
        replaces=replaces,
    )


def _check(alias: str, weight: float) -> None:
    if not NAME.fullmatch(alias):
        rule = "1 to 48 lower-case letters, digits and . _ -, a letter or digit first and last"
        raise InvalidSpec(f"{alias!r} is no name for a model: {rule}", violations=[Violation("alias", rule)])
    if not 0 <= weight <= ALL_TRAFFIC:
        raise InvalidSpec("weight: percent, 0 to 100", violations=[Violation("weight", "percent, 0 to 100")])


def _no_candidate(alias: str) -> Conflict:
    return Conflict(f"{alias!r} has no candidate", remedy="Deploy a version first, or name one that served before.")


def _nothing_before(alias: str) -> Conflict:
    return Conflict(f"{alias!r} has no version that served before", remedy="Deploy one.")
