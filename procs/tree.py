"""A tree of supervisors as one state machine: a supervisor's child may be a supervisor.

What one of them asks of another is answered here, so that what comes out is only what is to
be done with processes. A supervisor that gives up has failed for the one above, which starts
it again or gives up in its turn; what the root's giving up means, who runs the tree decides.

    event about a process -> its supervisor -> Start, Stop of processes -> out
                                            -> Start, Stop of supervisors -> those -> ...
                                            -> Up, Down -> the supervisor above -> ...
"""

from collections.abc import Callable, Sequence

import msgspec

from procs.supervisor import Action, Child, Down, GroupSpec, Start, Stop, Supervisor, Up
from syscalls.errors import EINVAL, ENOENT

Deed = Start | Stop
"""What is to be done with a process."""


class TreeStatistics(msgspec.Struct, frozen=True):
    """Figures of a tree."""

    supervisors: int
    processes: int
    up: int
    failed: int
    """Abandoned after too many failures."""
    restarts: int


class Tree:
    """Supervisors by name. Names, of processes too, are unique within a tree."""

    def __init__(self, groups: Sequence[GroupSpec], clock: Callable[[], float]) -> None:
        """The first of ``groups`` is the root; the others are children of some other by name.

        Raises EINVAL when they are no tree.
        """
        self._clock = clock
        self._above = _above(groups)
        self.root = groups[0].name
        self._nodes = {group.name: Supervisor(group, clock) for group in groups}

    @property
    def up(self) -> bool:
        """Whether everything that is wanted was up."""
        return self._nodes[self.root].stage == "up"

    @property
    def down(self) -> bool:
        """Whether nothing runs, and nothing will be started by itself."""
        return self._nodes[self.root].stage == "down"

    def deadline(self) -> float:
        """When ``tick`` is next due; ``inf`` for never."""
        return min(node.deadline() for node in self._nodes.values())

    def supervisors(self) -> list[Supervisor]:
        """All of them, each before those below it."""
        found = [self._nodes[self.root]]
        for node in found:  # the list grows while it is walked
            found += [self._nodes[c.name] for c in node.children if c.name in self._nodes]
        return found

    def processes(self) -> list[str]:
        """The names of those that are no supervisors."""
        return [name for name in self._above if name not in self._nodes]

    def names(self) -> list[str]:
        """Of processes and supervisors, without the root."""
        return list(self._above)

    def is_supervisor(self, name: str) -> bool:
        """Whether a name is a supervisor's."""
        return name in self._nodes

    def above(self, name: str) -> str:
        """The supervisor of a process or supervisor; empty for the root. Raises ENOENT."""
        if name == self.root:
            return ""
        if name not in self._above:
            raise ENOENT(f"nothing that is supervised is named {name!r}")
        return self._above[name]

    def child(self, name: str) -> Child:
        """A process or supervisor as its supervisor has it. Raises ENOENT."""
        return self._nodes[self._supervisor(name)].child(name)

    # --- events

    def start(self) -> list[Deed]:
        """Start everything, in order."""
        return self._carry_out(self.root, self._nodes[self.root].start())

    def stop(self) -> list[Deed]:
        """Stop everything, in reverse order."""
        return self._carry_out(self.root, self._nodes[self.root].stop())

    def ready(self, name: str) -> list[Deed]:
        """A process is up."""
        above = self._supervisor(name)
        return self._carry_out(above, self._nodes[above].up(name))

    def ended(self, name: str, *, abnormal: bool) -> list[Deed]:
        """A process has ended, or could not be started."""
        above = self._supervisor(name)
        return self._carry_out(above, self._nodes[above].ended(name, abnormal=abnormal))

    def tick(self) -> list[Deed]:
        """Time has passed."""
        deeds: list[Deed] = []
        for node in list(self._nodes.values()):
            deeds += self._carry_out(node.spec.name, node.tick())
        return deeds

    def start_child(self, name: str) -> list[Deed]:
        """Want a process or supervisor. Raises ENOENT."""
        if name == self.root:
            return self.start() if self.down else []
        above = self._supervisor(name)
        return self._carry_out(above, self._nodes[above].start_child(name))

    def stop_child(self, name: str) -> list[Deed]:
        """Do not want a process or supervisor. Raises ENOENT."""
        if name == self.root:
            return self.stop()
        above = self._supervisor(name)
        return self._carry_out(above, self._nodes[above].stop_child(name))

    def reconfigure(self, groups: Sequence[GroupSpec]) -> list[Deed]:
        """Take another specification; what did not change goes on. Raises EINVAL, and then
        nothing has changed."""
        above = _above(groups)
        wanted = {group.name: group for group in groups}
        if groups[0].name != self.root:
            raise EINVAL(f"the root is {self.root} and cannot become {groups[0].name}")
        for name in above.keys() & self._above.keys():
            if above[name] != self._above[name] or (name in wanted) != (name in self._nodes):
                raise EINVAL(
                    f"{name} cannot change its place or kind while it is there",
                    hint="give it another name, or take it out first",
                    name=name,
                )
        self._above |= above  # those that go are known until they are down
        for name, group in wanted.items():
            if name not in self._nodes:
                self._nodes[name] = Supervisor(group, self._clock)
        # All know what they are to be before any acts on it, those above first.
        nodes = self.supervisors()
        for name, group in wanted.items():
            self._nodes[name].configure(group)
        deeds: list[Deed] = []
        for node in dict.fromkeys([*nodes, *self.supervisors()]):
            deeds += self._carry_out(node.spec.name, node.step())
        return deeds

    def statistics(self) -> TreeStatistics:
        """Figures for ``/proc`` and metrics."""
        names = self.processes()
        children = [self.child(name) for name in names]
        return TreeStatistics(
            supervisors=len(self._nodes),
            processes=len(names),
            up=sum(child.stage == "up" for child in children),
            failed=sum(child.failed for child in children),
            restarts=sum(node.restarts for node in self._nodes.values()),
        )

    # --- inside

    def _supervisor(self, name: str) -> str:
        above = self.above(name)
        if not above:
            raise EINVAL(f"{name} is the root")
        return above

    def _carry_out(self, node: str, actions: Sequence[Action]) -> list[Deed]:
        """Do what concerns supervisors; returns what concerns processes."""
        deeds: list[Deed] = []
        for action in actions:
            match action:
                case Start(name) | Stop(name) if name not in self._nodes:
                    deeds.append(action)
                case Start(name):
                    deeds += self._carry_out(name, self._nodes[name].start())
                case Stop(name):
                    deeds += self._carry_out(name, self._nodes[name].stop())
                case Up() if node != self.root:
                    above = self._above[node]
                    deeds += self._carry_out(above, self._nodes[above].up(node))
                case Down(failed) if node != self.root:
                    above = self._above[node]
                    told = self._nodes[above].ended(node, abnormal=failed)
                    deeds += self._carry_out(above, told)
        self._forget()
        return deeds

    def _forget(self) -> None:
        """Drop what no supervisor has as a child any more."""
        there = {child.name for node in self._nodes.values() for child in node.children}
        if len(there) == len(self._above):
            return
        for name in self._above.keys() - there:
            del self._above[name]
            self._nodes.pop(name, None)


def _above(groups: Sequence[GroupSpec]) -> dict[str, str]:
    """The supervisor of each name. Raises EINVAL when this is no tree."""
    above: dict[str, str] = {}
    for group in groups:
        for child in group.children:
            if child.name in above or child.name == groups[0].name:
                raise EINVAL(f"two of what is supervised are named {child.name!r}")
            above[child.name] = group.name
    for group in groups:
        name, steps = group.name, 0
        while name != groups[0].name:
            steps += 1
            if name not in above or steps > len(groups):
                raise EINVAL(f"the supervisor {group.name} hangs on nothing")
            name = above[name]
    return above
