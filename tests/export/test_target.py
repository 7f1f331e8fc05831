"""Targets and forms: registries that say why."""

import pytest

from evoq_moo.errors import ArgumentError
from evoq_moo.export import FORMS, TARGETS
from evoq_moo.export._forms import form_of
from evoq_moo.export._target import DEFAULT_TARGET, target_of


def test_every_target_and_form_says_what_it_is_for():
    assert DEFAULT_TARGET in TARGETS
    for found in (*TARGETS.values(), *FORMS.values()):
        assert found.why
    assert all(target_of(name).name == name for name in TARGETS)
    assert all(form_of(name).name == name for name in FORMS)
    assert [name for name, form in FORMS.items() if form.integer] == ["int8"]


@pytest.mark.parametrize(("find", "argument"), [(target_of, "target"), (form_of, "form")])
def test_unknown_names_are_refused(find, argument):
    with pytest.raises(ArgumentError, match=f"{argument}: unknown name 'x'"):
        find("x")
