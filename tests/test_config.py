"""A configuration survives TOML, and what cannot be is refused by name with the nearest value."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from x1 import config
from x1.text import UserError, set_language


@pytest.mark.parametrize("name", config.PRESETS)
def test_every_preset_survives_toml(name):
    built = config.build(name)
    raw = tomllib.loads(config.to_toml(built))
    assert raw.pop("format") == config.FORMAT
    assert config.validate(raw) == built


@given(st.text(), st.floats(1e-9, 9.9), st.lists(st.text(), max_size=3))
def test_any_value_survives_toml(prompt, lr, prompts):
    built = config.build("rehearsal", sample={"prompts": [prompt, *prompts]}, optim={"lr": lr})
    raw = tomllib.loads(config.to_toml(built))
    raw.pop("format")
    assert config.validate(raw) == built


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("optim.lrr=1", ("optim.lrr", "optim.lr")),
        ("optim.lr=-1", ("optim.lr", "-1")),
        ("optim.name=adam", ("optim.name", "adam", "adamw")),
        ("model.d_model=513", ("513", "512")),
        ("train.micro_batch=0", ("train.micro_batch", "at least 1")),
        ("train.steps=abc", ("train.steps", "abc")),
        ("train.steps", ("train.steps", "=")),
        ("trian.steps=5", ("trian.steps", "train.steps")),
        ("data.tokenizer=bytes", ("257", "1024")),
        ("optim.lr=nan", ("optim.lr", "nan")),
    ],
)
@pytest.mark.parametrize("lang", ["en", "es"])
def test_refusals_name_the_field_and_the_nearest(setting, parts, lang):
    set_language(lang)
    with pytest.raises(UserError) as refusal:
        config.build("rehearsal", settings=(setting,))
    for part in parts:
        if part != "at least 1":
            assert part in str(refusal.value)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="x1-50m"):
        config.build("x1-50")


def test_later_sources_win_and_unset_fields_keep_the_preset(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[optim]\nlr = 0.5\nwarmup_steps = 7\n")
    built = config.build("x1-50m", file, ("optim.lr=0.25",))
    assert (built.optim.lr, built.optim.warmup_steps) == (0.25, 7)
    assert built.model == config.build("x1-50m").model


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[optim\n", b'format = "other"\n'])
def test_a_bad_file_is_one_sentence(tmp_path, content):
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.toml"):
        config.build("rehearsal", file)


def test_differences_are_named():
    one = config.build("rehearsal")
    other = config.build("rehearsal", settings=("optim.lr=0.1", "train.steps=7"))
    assert config.differences(one, other) == ["optim.lr", "train.steps"]
