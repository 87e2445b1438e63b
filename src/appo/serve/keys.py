"""`Keys`: who may ask, and what each key wrote.

A key is a rollout: a training opens one for each and takes its account when the agent has ended. A server for
everybody takes any key, and forgets those that have long been silent (`Bounds.forgets`).

Left out on purpose: secrets, which `app.py` checks.
"""

import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from appo.serve.api import ApiError
from appo.serve.book import Book
from appo.serve.bounds import Bounds
from appo.serve.replay import Branch, Cause

LONGEST = 200  # characters of a key


@dataclass(frozen=True)
class RolloutTerms:
    """What a training says of a rollout.

    Args:
        seed: Of its random numbers, which then do not hang on the key's name. A client's seeds differ between
            rollouts, too: an agent that asks with one seed shall not write the same N times.
        longest: Tokens of a conversation behind the prompt that opened it, or None.
    """

    seed: int
    longest: int | None = None


@dataclass(frozen=True)
class Held:
    """A sequence that is kept open.

    Args:
        id: The engine's.
        settings: What its turns were asked with.
    """

    id: int
    settings: Any


class Account:
    """What a key has.

    Args:
        key: Its name.
        seed: Of all its random numbers, with the key.
        room: Turns that are kept, or None for all.
        branch: Whose answers its requests get; None for a rollout of its own.
        rollout: What a training says of it; None for a client of a server.

    Attributes:
        asked_seconds: Of its requests, from the first byte to the last.
        engine_seconds: Of these, in which the engine wrote for it, or others before it.
        held: Sequences of a training's rollout that are kept open, by the number of their last turn.
        book: What it wrote.
        refused: Requests that left no room for an answer.
        open: Requests that are being answered.
        taken: Whether it asks no more; a request of it may still be open.
    """

    def __init__(
        self, key: str, seed: int, room: int | None, branch: Branch | None = None, rollout: RolloutTerms | None = None
    ) -> None:
        self.key, self.branch, self.rollout, self.book, self.open = key, branch, rollout, Book(room), 0
        self.held: dict[int, Held] = {}
        self.taken, self.refused = False, 0
        self.asked_seconds = self.engine_seconds = 0.0
        self._entropy = [seed, int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")]
        if rollout is not None:
            self._entropy = [rollout.seed]
        self._asked: Counter[tuple[int, ...]] = Counter()

    def seed(self, given: int | None, prompt_ids: list[int] | None = None) -> int:
        """The seed of the next turn, below 2**63: what follows from the one that the client asks for, else from the
        key and the number of the turn. So neighbours change nothing.

        Args:
            prompt_ids: What a training's rollout asks with: in place of the turn's number counts how often it asked
                that, as nobody knows in which order requests come that are sent at once.
        """
        if given is not None and self.branch is None and self.rollout is None:
            return given % 2**63
        if given is not None:
            entropy = [*self._entropy, given % 2**64]
        else:
            asked: tuple[int, ...] = ()
            if self.rollout is not None and prompt_ids is not None:
                text = np.asarray(prompt_ids, np.int64).tobytes()
                asked = (int.from_bytes(hashlib.sha256(text).digest()[:8], "big"),)
            entropy = [*self._entropy, *asked, self._asked[asked]]
            self._asked[asked] += 1
        if self.branch is not None:
            entropy.append(self.branch.seed)
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


class Keys:
    """
    Args:
        bounds: How many keys, turns and open requests there may be.
        anyone: Whether a key that was not opened gets an account when it first asks.
        seed: Of all random numbers.

    Attributes:
        diverged: Branches that were left out, by cause; of accounts that were taken.
    """

    def __init__(self, bounds: Bounds, anyone: bool = False, seed: int = 0) -> None:
        self.bounds, self.anyone, self._seed = bounds, anyone, seed
        self.diverged: Counter[Cause] = Counter()
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._accounts)

    @property
    def open_requests(self) -> int:
        """Requests that are being answered."""
        with self._lock:
            return sum(account.open for account in self._accounts.values())

    def open(self, key: str, branch: Branch | None = None, rollout: RolloutTerms | None = None) -> Account:
        """An account for a key that has none.

        Args:
            branch: Of a finished rollout, which the key branches.
            rollout: See `Account`.

        Raises:
            ValueError: where the key has one.
            ApiError: 429, where there is no room.
        """
        with self._lock:
            if key in self._accounts:
                raise ValueError(f"key {key!r} is open; give each rollout one of its own.")
            return self._new(key, branch, rollout)

    def take(self, key: str) -> Account:
        """The account of a key that asks no more, which is forgotten here.

        Raises:
            KeyError: where the key has none.
        """
        with self._lock:
            account = self._accounts.pop(key)
            account.taken = True
        if account.branch is not None and (cause := account.branch.outcome) is not None:
            self.diverged[cause] += 1
        return account

    @contextmanager
    def entered(self, key: str) -> Iterator[Account]:
        """The account of a key while one of its requests is being answered.

        Raises:
            ApiError: 401 for an unknown key, 429 where a bound is reached.
        """
        with self._lock:
            account = self._account(key)
            account.open += 1
            self._accounts.move_to_end(key)
        try:
            yield account
        finally:
            with self._lock:
                account.open -= 1

    def _account(self, key: str) -> Account:
        bounds, account = self.bounds, self._accounts.get(key)
        if sum(one.open for one in self._accounts.values()) >= bounds.requests:
            raise ApiError(429, f"{bounds.requests} requests are open; ask again later.")
        if account is None:
            if not self.anyone:
                raise ApiError(401, "this key is not known, or its rollout has ended.")
            account = self._new(key, None)
        if account.open >= bounds.requests_per_key:
            raise ApiError(429, f"this key has {account.open} open requests; wait for one to be answered.")
        if not bounds.forgets and len(account.book.turns) + account.open >= bounds.turns_per_key:
            raise ApiError(429, f"this key has written {bounds.turns_per_key} turns, and may not have more.")
        return account

    def _new(self, key: str, branch: Branch | None, rollout: RolloutTerms | None = None) -> Account:
        if len(key) > LONGEST:
            raise ApiError(401, f"a key may have {LONGEST} characters.")
        if len(self._accounts) >= self.bounds.keys:
            silent = next((name for name, one in self._accounts.items() if not one.open), None)
            if not self.bounds.forgets or silent is None:
                raise ApiError(429, f"there are {self.bounds.keys} keys; ask again later.")
            del self._accounts[silent]
        room = self.bounds.turns_per_key if self.bounds.forgets else None
        account = self._accounts[key] = Account(key, self._seed, room, branch, rollout)
        return account
