"""Which prefixes are computed again."""

from __future__ import annotations

from rir_mlx.backends.kept_prefixes import KeptPrefixes


def test_the_prefixes_used_last_are_kept_and_none_at_first() -> None:
    kept, run = KeptPrefixes[str](), list[str]()

    def get(name: str) -> str:
        def compute() -> str:
            run.append(name)
            return name

        return kept.get(tuple(map(ord, name)), compute)

    assert [get(name) for name in "aa"] == ["a", "a"]
    kept.keep(2)
    assert [get(name) for name in "ababacab"] == list("ababacab")
    assert "".join(run) == "aaabcb"
    kept.keep(0)
    assert get("a") == get("a") == "a"
    assert "".join(run[-2:]) == "aa"


def test_an_empty_prefix_is_not_kept() -> None:
    kept = KeptPrefixes[object]()
    kept.keep(2)
    assert kept.get((), object) is not kept.get((), object)
