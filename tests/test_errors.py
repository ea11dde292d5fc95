"""The error grammar: what == value, must be rule; where; what to do."""

from captionary.errors import CaptionaryError, bad_value, nearest


def test_parts_come_in_order_and_absent_ones_leave_no_separator() -> None:
    full = bad_value("seeds", 0, ">= 1", where="demo.yaml: evidence", todo="give one seed")
    assert isinstance(full, CaptionaryError)
    assert str(full) == "seeds == 0, must be >= 1; demo.yaml: evidence; give one seed"
    assert str(bad_value("seeds", 0, ">= 1")) == "seeds == 0, must be >= 1"
    assert str(bad_value("seeds", 0, ">= 1", todo="give one")) == "seeds == 0, must be >= 1; give one"


def test_a_string_is_shown_as_it_is_and_a_long_value_is_cut() -> None:
    assert str(bad_value("kind", "hexagon", "x")) == "kind == hexagon, must be x"
    assert str(bad_value("kind", None, "x")) == "kind == None, must be x"
    assert len(str(bad_value("kind", "y" * 5000, "x"))) == len("kind == , must be x") + 200
    assert len(str(bad_value("kind", ["y"] * 5000, "x"))) == len("kind == , must be x") + 200


def test_nearest_names_the_near_one_first_and_lists_all() -> None:
    assert nearest("splts", ["tasks", "splits"]) == "splits (did you mean that?) or one of splits, tasks"
    assert nearest("zzz", ["tasks", "splits"]) == "one of splits, tasks"
    assert nearest("zzz", []) == "absent"
