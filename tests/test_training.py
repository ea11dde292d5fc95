from captionary.evidence.arms import default_arms
from captionary.training import _drawn, arm_folder


def test_each_seed_trains_on_its_own_draw_of_a_placebo(tmp_path):
    arms = {arm.name: arm for arm in default_arms(visual=True, tokens=["A"], profiles=["A"]).arms}
    joint = "+visual+tokens(A)+profiles(A)"
    assert _drawn(arms["shuffled"], 2) == {
        "visual": True,
        "tokens": "A:shuffled:2",
        "profiles": "A:shuffled:2",
    }
    assert _drawn(arms["constant"], 2)["tokens"] == "A:constant"
    assert _drawn(arms[joint], 2) == {"visual": True, "tokens": "A", "profiles": "A"}
    folders = {arm_folder(tmp_path, name, seed) for name in arms for seed in (0, 1)}
    assert len(folders) == 2 * len(arms)
    assert arm_folder(tmp_path, joint, 0) == tmp_path / "visual-tokens-A-profiles-A" / "seed-0"
