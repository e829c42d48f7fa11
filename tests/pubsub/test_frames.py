"""Envelopes arrive whole, in order and in texts that fit; what was not packed with the key does not arrive."""

from __future__ import annotations

import random
import string
import tracemalloc
import zlib
from base64 import b64encode
from dataclasses import replace
from hashlib import blake2b
from typing import Any
from uuid import uuid4

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventstore.errors import ConfigurationError, InvalidMessage
from eventstore.pubsub.adapter import Envelope
from eventstore.pubsub.frames import MAX_MESSAGE_BYTES, Frame, Frames, Rejected, Spilled

KEY = b"one secret for all nodes"
HEAD = 24 + 25  # what `pack` keeps free: version, kind, MAC, the longest nonce and the dot

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
envelopes = st.builds(
    Envelope,
    st.sampled_from(["except", "only", "all"]),
    texts,
    texts,
    texts,
    texts | st.integers(0, 3000).map(lambda size: "€\0a" * size),
    st.none() | texts,
)


def envelope(message: str = '{"n":1}', **other: Any) -> Envelope:
    return replace(Envelope("except", "web-1", "0123456789abcdef", "room:1", message), **other)


def noise(size: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    """Text that zlib makes hardly smaller."""
    return "".join(random.Random(size).choices(alphabet, k=size))


def arrived(frames: Frames, packed: list[Frame]) -> list[Envelope]:
    found: list[Envelope] = []
    for frame in packed:
        unpacked = frames.unpack(frame.text)
        if isinstance(unpacked, Spilled):
            assert frame.spill is not None
            assert frame.spill.id == unpacked.id
            unpacked = frames.unspill(unpacked, frame.spill.body)
        else:
            assert frame.spill is None
        found += unpacked
    return found


def kinds(packed: list[Frame]) -> str:
    return "".join(frame.text[1] for frame in packed)


def size(frame: Frame) -> int:
    return len(frame.text.encode())


def signed(frames: Frames, kind: str, body: bytes) -> str:
    """A text of *body* with a true signature, as only a broken or newer node would send it."""
    return frames._signed(kind.encode(), body)


# What is packed arrives


@settings(deadline=None)
@given(st.lists(envelopes, max_size=6), st.sampled_from([113, 200, 7_999, None]))
def test_envelopes_arrive_equal_and_in_order_in_texts_that_fit(sent: list[Envelope], limit: int | None) -> None:
    frames = Frames(KEY, limit=limit)
    packed = frames.pack(sent)
    assert arrived(Frames(KEY, limit=limit), packed) == sent
    assert limit is None or all(size(frame) <= limit for frame in packed)


@pytest.mark.parametrize("character", ["a", "é", "€", "😀", '"', "\0"])
@pytest.mark.parametrize("limit", [7_998, 7_999, 8_000])
def test_a_text_never_exceeds_its_limit_and_fills_it_first(character: str, limit: int) -> None:
    frames = Frames(KEY, limit=limit)
    each = len(orjson.dumps(character)) - 2
    most, rest = divmod(limit - HEAD - 2 - len(orjson.dumps(list(fields(envelope(""))))), each)
    for characters in range(most - 3, most + 4):
        sent = [envelope("x" * rest + character * characters)]
        packed = frames.pack(sent)
        assert kinds(packed) == ("j" if characters <= most else "z")
        assert size(packed[0]) <= limit
        assert arrived(frames, packed) == sent


def fields(one: Envelope) -> tuple[str | None, ...]:
    return (one.mode, one.node, one.origin, one.topic, one.dispatcher, one.message)


@pytest.mark.parametrize("extra", range(-3, 4))
def test_several_envelopes_that_fill_a_text_exactly_share_it(extra: int) -> None:
    frames = Frames(KEY, limit=1_000)
    free = 1_000 - HEAD - 1 - sum(len(orjson.dumps(fields(envelope("")))) + 1 for _ in range(3))
    sent = [envelope("é" * 50), envelope("é" * 50), envelope("x" * (free - 200 + extra))]
    packed = frames.pack(sent)
    assert len(packed) == (1 if extra <= 0 else 2)
    assert all(size(frame) <= 1_000 for frame in packed)
    assert arrived(frames, packed) == sent


def test_the_shard_is_not_sent() -> None:
    frames = Frames(KEY)
    assert arrived(frames, frames.pack([envelope(shard=3)])) == [envelope(shard=0)]


def test_nothing_packed_is_nothing_sent() -> None:
    assert Frames(KEY).pack([]) == []


def test_small_envelopes_share_a_text_and_large_ones_keep_their_place() -> None:
    frames = Frames(KEY)
    sent = [envelope(str(n)) for n in range(30)] + [envelope("a" * 9_000), envelope(noise(20_000)), envelope("end")]
    packed = frames.pack(sent)
    assert kinds(packed) == "jzsj"
    assert arrived(frames, packed) == sent


def test_what_compression_does_not_bring_below_the_limit_is_spilled() -> None:
    frames = Frames(KEY)
    (frame,) = frames.pack([envelope(noise(12_000))])
    assert kinds([frame]) == "s"
    assert size(frame) < 200
    assert frame.spill is not None
    assert zlib.decompress(frame.spill.body)[:10] == b'[["except"'


def test_without_a_limit_nothing_is_spilled_and_only_what_shrinks_is_compressed() -> None:
    frames = Frames(KEY, limit=None)
    dense = noise(9_000, "".join(map(chr, range(32, 256))))
    sent = [envelope("a" * 8_000), envelope("a" * 9_000), envelope(dense), envelope("end")]
    packed = frames.pack(sent)
    assert kinds(packed) == "jzjj"
    assert arrived(frames, packed) == sent


@pytest.mark.parametrize("limit", [7_999, None])
def test_what_was_prepared_arrives_at_its_place(limit: int | None) -> None:
    frames = Frames(KEY, limit=limit)
    sent = [envelope("1"), envelope("a" * 9_000, dispatcher="d"), envelope("2"), envelope(noise(20_000)), envelope("3")]
    packed = frames.pack([one if len(one.message) == 1 else frames.prepare(one) for one in sent])
    assert kinds(packed) == ("jzjsj" if limit else "jzjzj")
    assert arrived(frames, packed) == sent


def test_what_was_prepared_is_neither_encoded_nor_compressed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, sent = Frames(KEY), envelope(noise(20_000), shard=3, mode="only")
    prepared = frames.prepare(sent)
    assert (prepared.shard, prepared.mode, prepared.node) == (3, "only", "web-1")
    assert prepared.message == ""
    monkeypatch.setattr("eventstore.pubsub.frames.zlib.compress", None)
    monkeypatch.setattr("eventstore.pubsub.frames.orjson.dumps", None)
    assert arrived(frames, frames.pack([prepared])) == [replace(sent, shard=0)]


def test_two_equal_broadcasts_give_different_texts() -> None:
    frames = Frames(KEY)
    once, again = frames.pack([envelope()]), frames.pack([envelope()])
    assert once[0].text != again[0].text
    assert arrived(frames, once) == arrived(frames, again)


def test_two_processes_of_one_key_give_different_texts() -> None:
    assert Frames(KEY).pack([envelope()])[0].text != Frames(KEY).pack([envelope()])[0].text


@pytest.mark.parametrize("key", [b"k", b"k" * 64, b"k" * 65, b"\0" * 200])
def test_keys_may_have_any_length(key: bytes) -> None:
    assert arrived(Frames(key), Frames(key).pack([envelope()])) == [envelope()]


def test_every_byte_of_a_long_key_matters() -> None:
    with pytest.raises(Rejected):
        Frames(b"k" * 100).unpack(Frames(b"k" * 99 + b"j").pack([envelope()])[0].text)


# What is refused before it is sent


def test_an_envelope_beyond_the_most_is_refused_by_topic_and_size() -> None:
    frames = Frames(KEY, most=1_000)
    exact = 1_000 - len(orjson.dumps(fields(envelope(""))))
    frames.check(envelope("a" * exact))
    for call in (frames.check, frames.prepare, lambda one: frames.pack([envelope(), one])):
        with pytest.raises(InvalidMessage, match=r"'room:1' takes 1,001 bytes; 1,000 are the most"):
            call(envelope("a" * (exact + 1)))


def test_the_largest_envelope_arrives() -> None:
    frames = Frames(KEY, most=50_000)
    sent = [envelope(noise(50_000 - len(orjson.dumps(fields(envelope(""))))))]
    assert arrived(frames, frames.pack(sent)) == sent
    unlimited = Frames(KEY, most=50_000, limit=None)
    assert arrived(unlimited, unlimited.pack(sent)) == sent


def test_sixteen_mebibytes_are_the_most() -> None:
    frames = Frames(KEY)
    frames.check(envelope("a" * (MAX_MESSAGE_BYTES - 100)))
    with pytest.raises(InvalidMessage):
        frames.check(envelope("a" * MAX_MESSAGE_BYTES))


def test_a_topic_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(InvalidMessage, match=r"topic 'a\\ud800' cannot be encoded"):
        Frames(KEY).check(envelope(topic="a\ud800"))


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="not empty"):
        Frames(b"")
    with pytest.raises(ConfigurationError, match="at least 113 bytes, not 112"):
        Frames(KEY, limit=112)


# What is rejected when it arrives

FRAMES = Frames(KEY)
SAMPLES = [
    FRAMES.pack([envelope("héllo"), envelope()])[0].text,
    FRAMES.pack([envelope("a" * 9_000)])[0].text,
    FRAMES.pack([envelope(noise(12_000))])[0].text,
]


@settings(deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_a_text_with_any_character_changed_is_rejected(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw((st.characters() | st.sampled_from("jzs019af.-_AQgw=")).filter(lambda new: new != text[place]))
    with pytest.raises(Rejected):
        FRAMES.unpack(text[:place] + other + text[place + 1 :])


@settings(deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_a_text_that_was_cut_or_prolonged_is_rejected(text: str, data: st.DataObject) -> None:
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    for changed in (cut, text + data.draw(st.text(min_size=1))):
        with pytest.raises(Rejected):
            FRAMES.unpack(changed)


@settings(deadline=None)
@example("\ud800")
@example("1j" + "A" * 21 + "\ud800" + "0.[]")
@given(st.text() | st.text().map(lambda body: f"1j{'A' * 22}0123456789.{body}"))
def test_garbage_is_rejected(text: str) -> None:
    with pytest.raises(Rejected):
        FRAMES.unpack(text)


@settings(deadline=None)
@given(st.sampled_from("jzsx"), st.binary(max_size=80) | st.text().map(str.encode))
def test_garbage_with_a_true_signature_raises_nothing_else(kind: str, body: bytes) -> None:
    try:
        text = signed(FRAMES, kind, body)
    except UnicodeDecodeError:  # a text cannot hold it
        return
    try:
        assert FRAMES.unpack(text) == []
    except Rejected:
        return


@pytest.mark.parametrize(
    "body",
    [
        {},
        None,
        7,
        "text",
        [7],
        ["sixsix"],
        [[]],
        [["all", "n", "o", "t", None]],
        [["all", "n", "o", "t", None, "m", 0]],
        [["some", "n", "o", "t", None, "m"]],
        [[["all"], "n", "o", "t", None, "m"]],
        [[None, "n", "o", "t", None, "m"]],
        [["all", 1, "o", "t", None, "m"]],
        [["all", "n", None, "t", None, "m"]],
        [["all", "n", "o", ["t"], None, "m"]],
        [["all", "n", "o", "t", 7, "m"]],
        [["all", "n", "o", "t", None, {}]],
        [dict.fromkeys("abcdef", "all")],
    ],
    ids=repr,
)
def test_a_body_of_another_shape_is_rejected_however_it_came(body: Any) -> None:
    encoded = orjson.dumps(body)
    packed = zlib.compress(encoded)
    for kind, data in (("j", encoded), ("z", b64encode(packed))):
        with pytest.raises(Rejected, match="malformed body"):
            FRAMES.unpack(signed(FRAMES, kind, data))
    with pytest.raises(Rejected, match="malformed body"):
        FRAMES.unspill(Spilled(uuid4(), blake2b(packed, digest_size=16).digest()), packed)


def test_another_key_is_rejected() -> None:
    with pytest.raises(Rejected, match="signature"):
        Frames(b"another secret").unpack(SAMPLES[0])


def test_another_version_is_rejected_by_name() -> None:
    with pytest.raises(Rejected, match="version '2', not '1'"):
        FRAMES.unpack("2" + SAMPLES[0][1:])


def test_the_signature_covers_the_kind() -> None:
    for kind in "zsx":
        with pytest.raises(Rejected, match="signature"):
            FRAMES.unpack(SAMPLES[0][0] + kind + SAMPLES[0][2:])


@pytest.mark.parametrize("text", SAMPLES, ids=range(len(SAMPLES)))
def test_the_signature_covers_every_digit_of_the_nonce(text: str) -> None:
    for place in range(24, text.index(".")):
        with pytest.raises(Rejected, match="signature"):
            FRAMES.unpack(text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :])


def test_an_unknown_kind_is_rejected() -> None:
    with pytest.raises(Rejected, match="unknown kind"):
        FRAMES.unpack(signed(FRAMES, "x", b"[]"))


def test_a_spilled_body_that_was_changed_is_rejected() -> None:
    (frame,) = FRAMES.pack([envelope(noise(12_000))])
    spilled = FRAMES.unpack(frame.text)
    assert isinstance(spilled, Spilled)
    assert frame.spill is not None
    body = frame.spill.body
    for changed in (b"", body[:-1], body + b"x", bytes([body[0] ^ 1]) + body[1:], zlib.compress(b"[]")):
        with pytest.raises(Rejected, match=f"{spilled.id} was changed"):
            FRAMES.unspill(spilled, changed)


def test_a_zip_bomb_is_rejected() -> None:
    frames = Frames(KEY, most=100_000)
    for body in (b"[" * 10_000_000, b"[" + b" " * 100_001 + b"]"):
        bomb = zlib.compress(body, 9)
        with pytest.raises(Rejected, match="larger than 100,002 bytes"):
            frames.unpack(signed(frames, "z", b64encode(bomb)))
        spilled = Spilled(uuid4(), blake2b(bomb, digest_size=16).digest())
        with pytest.raises(Rejected, match="larger than 100,002 bytes"):
            frames.unspill(spilled, bomb)


def test_a_zip_bomb_takes_no_more_memory_than_the_most() -> None:
    frames = Frames(KEY, most=100_000)
    text = signed(frames, "z", b64encode(zlib.compress(b"[" * 10_000_000, 9)))
    tracemalloc.start()
    try:
        with pytest.raises(Rejected):
            frames.unpack(text)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_compressed_body_that_was_cut_or_goes_on_is_rejected() -> None:
    packed = zlib.compress(b"[]")
    assert FRAMES.unpack(signed(FRAMES, "z", b64encode(packed))) == []
    for body in (packed[:-1], packed + packed, b""):
        with pytest.raises(Rejected):
            FRAMES.unpack(signed(FRAMES, "z", b64encode(body)))
