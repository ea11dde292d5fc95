"""Arms: the rows of Table 1, and which of them the inputs at hand allow."""

from __future__ import annotations

import pytest

from captionary.errors import CaptionaryError
from captionary.evidence.arms import LISTS, RIVALS, Arm, baseline_of, default_arms, headline_of
from captionary.rank.features import FeatureSet


def names(**inputs: object) -> list[str]:
    return [arm.name for arm in default_arms(**inputs).arms]  # type: ignore[arg-type]


def test_the_full_list_is_that_of_the_paper_with_joint_arm_and_placebos() -> None:
    arms, left_out = default_arms(visual=True, tokens=("A", "B"), profiles=("A",))
    assert [arm.name for arm in arms] == [
        "ids",
        "+visual",
        "+visual+tokens(A)",
        "+visual+tokens(B)",
        "+visual+profiles(A)",
        "+visual+tokens(A)+profiles(A)",
        "+tokens(A)+profiles(A)",  # for the ablation
        "shuffled",
        "random",
        "constant",
    ]
    assert [arm.name for arm in arms if arm.ablation] == ["+tokens(A)+profiles(A)"]
    assert left_out == ()
    assert baseline_of(arms).name == "+visual"
    assert headline_of(arms) is arms[5]


def test_features_name_the_tables_that_the_ranker_reads() -> None:
    arms = {arm.name: arm for arm in default_arms(visual=True, tokens=("A", "B"), profiles=("A",)).arms}
    assert arms["+visual"].features() == {"visual": True, "tokens": None, "profiles": None}
    assert arms["+visual+tokens(B)"].features() == {"visual": True, "tokens": "B", "profiles": None}
    assert arms["random"].features() == {"visual": True, "tokens": "A:random", "profiles": "A:random"}
    assert arms["random"].tokenizer == "A"


def test_without_media_only_ids_are_left_and_the_reason_is_said() -> None:
    arms = default_arms(visual=False, tokens=(), profiles=())
    assert [arm.name for arm in arms.arms] == ["ids"]
    assert len(arms.left_out) == 2
    assert arms.headline is None
    assert arms.baseline.name == "ids"


def test_captions_without_pictures_are_measured_against_ids() -> None:
    assert names(visual=False, tokens=("A",), profiles=("A",), placebos=("random",)) == [
        "ids",
        "+tokens(A)",
        "+profiles(A)",
        "+tokens(A)+profiles(A)",
        "random",
    ]


def test_without_events_the_placebos_are_of_the_first_tokenizer_alone() -> None:
    arms = default_arms(visual=True, tokens=("A", "B"), profiles=())
    assert arms.headline is not None
    assert arms.headline.name == "+visual+tokens(A)"
    assert (arms.arms[-1].tokens, arms.arms[-1].profiles) == ("A:constant", None)
    assert "no events" in arms.left_out[0]


def test_an_arm_without_captions_has_no_placebo() -> None:
    with pytest.raises(CaptionaryError, match="placebo of arm shuffled"):
        Arm(name="shuffled", visual=True, placebo="shuffled")


def test_a_comparison_needs_something_to_compare_with() -> None:
    with pytest.raises(CaptionaryError, match=r"must be with ids or \+visual among them"):
        baseline_of([Arm(name="+tokens(A)", tokens="A")])


def test_captions_beside_the_visual_vector_are_measured_on_ids():
    arms = default_arms(visual=True, tokens=["A"], profiles=["A"], on_visual=False)
    assert [arm.name for arm in arms.arms] == [
        "ids", "+visual", "+tokens(A)", "+profiles(A)", "+tokens(A)+profiles(A)", "shuffled", "random", "constant",
    ]  # fmt: skip
    assert arms.baseline.name == "ids"
    assert [arm.name for arm in arms.arms if arm.visual] == ["+visual"]
    assert arms.headline is not None
    assert arms.headline.name == "+tokens(A)+profiles(A)"


def test_rivals_come_when_asked_for_and_lead_nothing() -> None:
    inputs = {"visual": True, "tokens": ["A", "B"], "profiles": ["A"]}
    plain = default_arms(**inputs)
    arms = default_arms(**inputs, rivals=RIVALS)
    assert [arm for arm in arms.arms if not arm.rival] == list(plain.arms)
    assert (arms.baseline, arms.headline) == (plain.baseline, plain.headline)
    named = {arm.name: arm for arm in arms.arms if arm.rival}
    assert list(named) == [
        *(f"+visual+tokens({kind})+profiles({kind})" for kind in LISTS),
        "+visual+sentence",
        "+visual+profile_text",
        "+visual+tokens(A)+profiles(A)+word2vec",
        "+visual+tokens(A)+profiles(A)+hash",
    ]
    semantic, sentence, written, word2vec, hashed = list(named.values())[len(LISTS) - 1 :]
    assert written.vectors == ("profile_text",)
    assert (semantic.tokens, semantic.profiles) == ("semantic", "semantic")
    assert (sentence.vectors, sentence.tokens, sentence.captions) == (("sentence",), None, True)
    assert (word2vec.tokens, word2vec.profiles, word2vec.token_vectors) == ("A", "A", "A")
    assert (hashed.tokens, hashed.profiles, hashed.token_table) == ("A", "A", "hash")
    assert all(arm.visual for arm in named.values())
    assert FeatureSet(**sentence.features()) == FeatureSet(visual=True, vectors=("sentence",))
    expected = FeatureSet(visual=True, tokens="A", profiles="A", token_vectors="A")
    assert FeatureSet(**word2vec.features()) == expected


def test_rivals_without_captions_are_run_alone() -> None:
    arms = default_arms(visual=False, tokens=(), profiles=(), rivals=("items", "labels"), events=True)
    assert [arm.name for arm in arms.arms] == ["ids", "+tokens(items)+profiles(items)"]
    assert (arms.baseline.name, arms.headline) == ("ids", None)
    assert arms.left_out[-1] == "No captions: no rival labels."


def test_rivals_are_like_the_joint_arm_in_all_else() -> None:
    arms = default_arms(visual=True, tokens=["A"], profiles=[], rivals=("semantic", "hash"), on_visual=False)
    assert [arm.name for arm in arms.arms if arm.rival] == ["+tokens(semantic)", "+tokens(A)+hash"]
    assert arms.baseline.name == "ids"
    with pytest.raises(CaptionaryError, match="semantic"):
        default_arms(visual=True, tokens=["A"], profiles=[], rivals=("sematic",))  # type: ignore[arg-type]
