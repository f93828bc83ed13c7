"""Flower (``flwr``) as transport: the same messages through a ``Grid``, so that an existing federation can calibrate.

Flower needs other versions of this package's dependencies: install both in an environment of their own
(``make test-flower`` makes one). ``sarsteer.federated.flower_app`` has a ready ``ServerApp`` and ``ClientApp``.

The site's secrets of a round are in the node's ``Context``, which Flower keeps on the node. Every reply is signed by
the site's key, as over HTTPS. Masks are this package's: see docs/federated.md for why Flower's SecAgg+ is not used.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sarsteer.federated.coordinator import Coordinator
from sarsteer.federated.errors import FederationError
from sarsteer.federated.identity import verify
from sarsteer.federated.plan import Plan
from sarsteer.federated.site import Site
from sarsteer.federated.wire import Message, text_of
from sarsteer.steering.artifact import Steering

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

KEY, STATE = "sarsteer", "sarsteer-state"
"""Names of the records in a message, and in a node's context."""
_PAUSE = 0.5


class GridTransport:
    """A ``Transport`` over a Flower ``Grid``.

    Args:
        grid: of the ``ServerApp``.
        plan: the plan, with the public key of each site.
        nodes: Flower's node ID of each site; see ``find_sites``.
        seconds: how long a site may take for a step.

    """

    def __init__(self, grid: Grid, plan: Plan, nodes: Mapping[str, int], seconds: float = 120.0) -> None:
        self._grid, self._plan, self._nodes, self._seconds = grid, plan, dict(nodes), seconds

    def exchange(self, messages: Mapping[str, Message]) -> Mapping[str, Message]:
        """See ``Transport``. Replies that are late, failed, or not signed by their site are left out."""
        tag = secrets.token_hex(16)  # the signature of a reply holds for this exchange alone
        encoded = {id(message): message.to_bytes() for message in messages.values()}
        sent = {self._nodes[name]: (name, encoded[id(message)]) for name, message in messages.items()}
        replies = _exchange(self._grid, "train", {node: data for node, (_, data) in sent.items()}, tag, self._seconds)
        found = {}
        for node, record in replies.items():
            name = sent[node][0]
            data = record["message"]
            if verify(self._plan.sites[name], str(record["signature"]), b"flower", tag.encode(), data):
                found[name] = Message.from_bytes(data)
        return found


def find_sites(
    grid: Grid, plan: Plan, *, wait_seconds: float = 60.0, report: Callable[[str], None] | None = None
) -> dict[str, int]:
    """The node ID of each site of ``plan``: nodes sign their names. Waits until all are there, or ``wait_seconds``.

    Raises:
        FederationError: too few sites of the plan have answered, or one has joined twice.

    """
    report = report or (lambda _: None)
    found: dict[str, int] = {}
    asked: set[int] = set()
    refused: list[str] = []
    began = time.monotonic()
    while len(found) < len(plan.sites):
        new = [node for node in grid.get_node_ids() if node not in asked]
        left = wait_seconds - (time.monotonic() - began)
        if not new:
            if left <= 0:
                break
            time.sleep(_PAUSE)
            continue
        asked |= set(new)
        tag = secrets.token_hex(16)
        for node, record in _exchange(grid, "query", dict.fromkeys(new, b""), tag, max(left, 1.0)).items():
            hello = Message.from_bytes(record["message"])
            name = str(hello.values.get("name"))
            reason = _refusal(plan, name, hello, str(record["signature"]), tag, record["message"])
            if reason is None and name in found:
                raise FederationError(f"site {name} has joined twice, with nodes {found[name]} and {node}; stop one")
            if reason is None:
                found[name] = node
                report(f"{name} joined: {len(found)} of {len(plan.sites)} sites")
            else:
                refused.append(reason)
                report(reason)
    if len(found) < plan.min_sites:
        reasons = f" ({'; '.join(refused)})" if refused else ""
        raise FederationError(
            f"{len(found)} of {len(plan.sites)} sites have joined, and the plan needs {plan.min_sites}{reasons}"
        )
    return found


def _refusal(plan: Plan, name: str, hello: Message, signature: str, tag: str, data: bytes) -> str | None:
    """Why a node is not a site of ``plan``; None if it is."""
    from sarsteer import __version__

    if hello.step == "error":
        return f"a node was refused: {hello.values.get('message')}"
    public = plan.sites.get(name)
    if public is None or not verify(public, signature, b"flower", tag.encode(), data):
        return f"site {name!r} is not in the plan, or its key is another; plan with its key"
    if hello.values.get("plan") != plan.digest:
        return f"site {name} has another plan than the server; give all sites the same file"
    if hello.values.get("sarsteer") != __version__:
        return f"site {name} runs sarsteer {hello.values.get('sarsteer')}, the server {__version__}; update"
    return None


def calibrate_over(
    grid: Grid,
    plan: Plan,
    *,
    wait_seconds: float = 60.0,
    step_seconds: float = 120.0,
    report: Callable[[str], None] | None = None,
) -> Steering:
    """Run the rounds of ``plan`` with the nodes of ``grid``; what a ``ServerApp`` does.

    Args:
        grid: the argument of ``@app.main()``.
        plan: the plan.
        wait_seconds: how long sites may take to join.
        step_seconds: how long a site may take for a step.
        report: called with a line about what happens.

    Raises:
        FederationError: too few sites have joined, or are left.
        CalibrationError: the sums allow no calibration.

    """
    nodes = find_sites(grid, plan, wait_seconds=wait_seconds, report=report)
    return Coordinator(plan, GridTransport(grid, plan, nodes, step_seconds), list(nodes), report=report).run()


def client_app(site_of: Callable[[Context], Site]) -> ClientApp:
    """A Flower client that answers for the node's site.

    Args:
        site_of: the site of a node. It is called for every message, perhaps each time in a new process, and should read
            activations that ``collect`` has stored.

    """
    flwr = _flower()
    from flwr.clientapp import ClientApp

    app: Any = ClientApp()

    def replied(message: Any, site: Site | None, reply: Message) -> Any:
        data = reply.to_bytes()
        tag = str(message.content[KEY]["tag"])
        signature = "" if site is None else site.sign(b"flower", tag.encode(), data)
        record = flwr.ConfigRecord({"message": data, "signature": signature})
        return flwr.Message(flwr.RecordDict({KEY: record}), reply_to=message)

    def hello(message: Any, context: Context) -> Any:
        from sarsteer import __version__

        try:
            site = site_of(context)
        except Exception as error:  # the server reports why this node takes no part
            return replied(message, None, Message("error", {"message": text_of(error)}))
        about = {"name": site.name, "plan": site.plan.digest, "sarsteer": __version__}
        return replied(message, site, Message("hello", about))

    def train(message: Any, context: Context) -> Any:
        site = site_of(context)
        if STATE in context.state:
            site.restore(Message.from_bytes(context.state[STATE]["site"]))
        reply = site.handle(Message.from_bytes(message.content[KEY]["message"]))
        context.state[STATE] = flwr.ConfigRecord({"site": site.state().to_bytes()})
        return replied(message, site, reply)

    app.query()(hello)
    app.train()(train)
    return app


def _exchange(grid: Any, kind: str, data: Mapping[int, bytes], tag: str, seconds: float) -> dict[int, Any]:
    """The records that nodes reply; without those of nodes that failed."""
    flwr = _flower()
    messages = [
        flwr.Message(flwr.RecordDict({KEY: flwr.ConfigRecord({"message": one, "tag": tag})}), node, kind)
        for node, one in data.items()
    ]
    replies = {}
    for reply in grid.send_and_receive(messages, timeout=seconds):
        node = reply.metadata.src_node_id
        if node in data and not reply.has_error() and KEY in reply.content:
            replies[node] = reply.content[KEY]
    return replies


def _flower() -> Any:
    try:
        import flwr.app
    except ImportError:
        raise FederationError(
            "Flower is not installed; it needs an environment of its own, see docs/federated.md"
        ) from None
    return flwr.app
