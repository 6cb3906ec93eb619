"""Replay: the step that was, bit for bit, in whichever attempt; and what is shown of it is true."""

import json
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from x1 import checkpoint, data, folder, history, layer_stats, replay, replay_page, stability, train
from x1.model import rotary
from x1.ranks import Ranks
from x1.text import UserError, say, set_language
from x1.train import Job

STEPS = 60
WILD = ("optim.schedule=constant", "optim.clip=0")


def trained(run):
    """Train it here: a process of its own would cost more than the training."""
    code = train.train(run)
    torch.set_num_threads(1)
    return code


def contents(run):
    return {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder for the one run that is trained, so that each test need only copy it."""
    return tmp_path_factory.mktemp("kept") / "here"


@pytest.fixture
def drilled(make_run, here, kept):
    """A run with a NaN skipped at step 25, and a spike that undid the steps from 39 on."""
    if not kept.exists():
        inject = 'stability.inject=["nan-gradient@25", "lr-x100@40"]'
        assert trained(make_run("run", f"train.steps={STEPS}", inject, *WILD)) == 0
        shutil.copytree(here, kept)
    shutil.copytree(kept, here, dirs_exist_ok=True)
    return here / "run"


def line_of(run, step, attempt):
    return next(
        line
        for line in history.training_lines(run)
        if (line["step"], line["attempt"]) == (step, attempt)
    )


def test_every_attempts_steps_are_lived_again_bit_for_bit_and_the_run_is_not_touched(drilled):
    (back,) = folder.events(drilled, "rollback")
    spiked = back["from_step"]
    before = contents(drilled)
    for step, attempt in ((spiked - 1, 1), (spiked - 1, 2), (spiked, 1), (spiked, 2), (52, None)):
        moment = history.find(drilled, step, attempt)
        result = replay.replay(moment)
        (batch,) = result["batches"]
        assert batch["bit_exact"] is True and result["differs_from_step"] is None
        assert result["manifest_differs"] == {} and result["attempt"] == (attempt or 2)
        if (step, attempt) == (spiked, 1):
            (spike,) = folder.events(drilled, "spike")
            assert batch["outcome"] == "rolled-back" and batch["planted"] == ["lr-x100"]
            assert (batch["loss"], batch["grad_norm"]) == (spike["loss"], spike["grad_norm"])
            assert batch["update_to_weight"] == {}
        else:
            line = line_of(drilled, step, result["attempt"])
            assert batch["outcome"] == "trained" and batch["data_index"] == line["data_index"]
            assert (batch["loss"], batch["grad_norm"]) == (line["loss"], line["grad_norm"])
    assert contents(drilled) == before
    # What was planted struck once: attempt 1 took a step 100 times as long at the same place.
    spoiled, clean = (
        replay.replay(history.find(drilled, spiked - 1, attempt))["batches"][0]
        for attempt in (1, 2)
    )
    assert spoiled["planted"] == ["lr-x100"] and clean["planted"] == []
    name = "layers.0.mlp.gate_proj.weight"
    ratio = spoiled["update_to_weight"][name] / clean["update_to_weight"][name]
    assert 50 < ratio < 200


def test_a_batch_left_out_is_shown_before_the_one_that_took_its_place(drilled):
    result = replay.replay(history.find(drilled, 25, 1))
    left_out, taken = result["batches"]
    assert (left_out["data_index"], left_out["outcome"]) == (25, "skipped")
    assert (taken["data_index"], taken["outcome"]) == (26, "trained")
    assert left_out["bit_exact"] is True and math.isnan(left_out["grad_norm"])
    broken = [name for name, norm in left_out["gradient_norms"].items() if math.isnan(norm)]
    assert broken == ["embed_tokens.weight"]  # where the NaN was planted, and nowhere else
    assert taken["bit_exact"] is True
    assert taken["loss"] == line_of(drilled, 25, 1)["loss"]
    assert json.loads(json.dumps(replay_page.finite(left_out), allow_nan=False))


@pytest.mark.parametrize("kind", stability.INJECTIONS)
def test_every_kind_of_fault_is_planted_again(make_run, kind):
    run = make_run("run", "train.steps=24", f'stability.inject=["{kind}@18"]', *WILD)
    assert trained(run) == 0
    inject = folder.events(run, "inject")[0]
    for step in range(inject["step"], 23):
        result = replay.replay(history.find(run, step, 1))
        assert all(batch["bit_exact"] for batch in result["batches"]), step
        if step == inject["step"]:
            assert kind in result["batches"][0]["planted"]
        if (
            folder.events(run, "rollback")
            and step >= folder.events(run, "rollback")[0]["from_step"]
        ):
            return


def test_the_nearest_checkpoint_on_the_way_is_used(drilled):
    """A checkpoint written again by a later attempt serves as long as nothing had changed."""
    (back,) = folder.events(drilled, "rollback")
    for step in (10, 20, 30, 40):
        shutil.rmtree(checkpoint.path_of(drilled, step), ignore_errors=True)
    assert history.find(drilled, 45, 2).from_step == 0
    assert history.find(drilled, 55, 2).from_step == 50
    # That of step 60 is beyond attempt 1; one of step 40 in attempt 2 has left out batches that
    # attempt 1 trained on.
    source = checkpoint.path_of(drilled, 50)
    tensors = [load_file(source / name) for name in (checkpoint.MODEL, checkpoint.OPTIMIZER)]
    written = json.loads((source / checkpoint.STATE).read_text())
    state = {name: written[name] for name in ("data_index", "skipped", "detector", "plan_sha256")}

    def planted(step, attempt):
        checkpoint.write(drilled, step, *tensors, {**state, "attempt": attempt})

    planted(30, 2)
    assert history.find(drilled, 35, 1).from_step == 30
    planted(back["from_step"], 2)
    assert history.find(drilled, back["from_step"], 1).from_step == 30
    assert history.find(drilled, back["from_step"], 2).from_step == back["from_step"]
    planted(30, 1)  # undone by the roll-back, if that went further back
    assert history.find(drilled, 35, 1).from_step == 30
    damaged = checkpoint.path_of(drilled, 30) / checkpoint.MODEL
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert history.find(drilled, 35, 1).from_step == 0


def test_the_price_is_the_runs_own_pace_times_the_steps(drilled):
    lines = folder.read_lines(drilled / folder.METRICS)
    for line in lines:
        line["clock"]["seconds"] = 120.0
    content = "".join(json.dumps(line) + "\n" for line in lines)
    (drilled / folder.METRICS).write_text(content)
    moment = history.find(drilled, 53)
    assert (moment.from_step, moment.steps, moment.seconds_per_step) == (50, 4, 120.0)
    told = replay_page.cost(moment, batch_only=False)
    assert "from the checkpoint of step 50: 4 steps, about 8 min 00 s" in told
    first = history.find(drilled, 3)
    assert "no checkpoint on the way: 4 steps" in replay_page.cost(first, batch_only=False)


def test_where_a_replay_differs_it_says_by_how_much_from_where_and_on_what(drilled):
    manifest = folder.read_json(drilled / folder.MANIFEST)
    manifest["versions"]["torch"] = "2.0.0"
    manifest["hardware"]["hostname"] = "elsewhere"
    folder.write_json(drilled / folder.MANIFEST, manifest)
    lines = folder.read_lines(drilled / folder.METRICS)
    for line in lines:
        if line["step"] in (51, 53) and "loss" in line:
            line["loss"] += 2**-20
    content = "".join(json.dumps(line) + "\n" for line in lines)
    (drilled / folder.METRICS).write_text(content)
    result = replay.replay(history.find(drilled, 53))
    assert result["batches"][0]["bit_exact"] is False and result["differs_from_step"] == 51
    assert result["manifest_differs"] == {"versions.torch": ["2.0.0", torch.__version__]}
    told = replay_page.verdict(result)
    assert f"loss {-(2**-20):+.3g}" in told and "gradient norm" not in told
    assert "first step that differs is 51" in told and "versions.torch (2.0.0 →" in told


def test_the_step_a_run_died_in_has_nothing_to_compare_with(drilled):
    lines = [
        line for line in folder.read_lines(drilled / folder.METRICS)
        if line["attempt"] == 1 and line["step"] < 33
    ]  # fmt: skip
    (drilled / folder.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    events = [
        e for e in folder.events(drilled) if e.get("attempt", 1) == 1 and e["event"] != "spike"
    ]
    (drilled / folder.EVENTS).write_text("".join(json.dumps(e) + "\n" for e in events[:5]))
    result = replay.replay(history.find(drilled, 33))
    assert [b["outcome"] for b in result["batches"]] == ["unknown"]
    assert result["batches"][0]["bit_exact"] is None
    assert say("replay.nothing_logged") in replay_page.verdict(result)


# ---- What is shown


@pytest.mark.parametrize("settings", [(), ("model.qk_norm=false", "model.tied=false")])
def test_the_statistics_are_those_of_the_model(make_run, settings):
    """Against the model's own parts, one by one, for all sequences at once."""
    run = make_run("run", "train.steps=5", *settings)
    config = folder.open_run(run)
    model, _, _ = train.assemble(config, Ranks(0, 1, torch.device("cpu")))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    ids = torch.randint(0, config.model.vocab_size, (3, config.model.context + 1))
    blocks, losses = layer_stats.forward_stats(model, ids)
    with torch.no_grad():
        x = model.embed_tokens(ids[:, :-1])
        T = x.shape[1]
        cos, sin = model.cos[:T], model.sin[:T]
        for block, shown in zip(model.layers, blocks, strict=True):
            attention, into = block.self_attn, block.input_layernorm(x)
            q, k = (
                rotary(norm(part(into).unflatten(-1, (2, -1))).transpose(1, 2), cos, sin)
                for part, norm in (
                    (attention.q_proj, attention.q_norm), (attention.k_proj, attention.k_norm)
                )
            )  # fmt: skip
            logits = (q @ k.mT / math.sqrt(q.shape[-1]))[:, :, *torch.tril_indices(T, T)]
            x = block(x, cos, sin)
            assert shown["attention_logit_max"] == pytest.approx(float(logits.max()), rel=1e-5)
            assert shown["activation_rms"] == pytest.approx(
                float(x.square().mean().sqrt()), rel=1e-5
            )
            assert shown["activation_max"] == pytest.approx(float(x.abs().max()), rel=1e-5)
        logits = model(ids[:, :-1])
        expected = F.cross_entropy(logits.mT, ids[:, 1:], reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


def test_norms_and_ratios_are_those_of_the_tensors(make_run):
    run = make_run("run", "train.steps=5")
    config = folder.open_run(run)
    ranks = Ranks(0, 1, torch.device("cpu"))
    model, network, optimizers = train.assemble(config, ranks)
    job = Job(
        run, config, data.open_data(data.path_of(config)), ranks, model, network, optimizers, 4
    )
    train.forward_backward(network, train.batch(job, 0), 4, 0.0)
    norms = layer_stats.gradient_norms(model)
    layer = torch.cat([p.grad.flatten() for p in model.layers[1].parameters()])
    assert layer_stats.total_norm(norms, "layers.1.") == pytest.approx(
        float(layer.norm()), rel=1e-5
    )
    total = float(train.clip_gradients(model, 0.0))
    assert layer_stats.total_norm(norms, "") == pytest.approx(total, rel=1e-5)

    def shrink():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.75)

    ratios = layer_stats.update_ratios(model, shrink)
    assert ratios.keys() == {name for name, p in model.named_parameters() if p.ndim == 2}
    for name, ratio in ratios.items():
        zero = name.endswith(("o_proj.weight", "down_proj.weight"))  # as they are initialised
        assert math.isnan(ratio) if zero else ratio == pytest.approx(0.25, rel=1e-6)


def test_tokens_are_shown_in_their_text(drilled):
    (batch,) = replay.replay(history.find(drilled, 52))["batches"]
    config = folder.open_run(drilled)
    dataset = data.open_data(data.path_of(config))
    ids = data.batch(dataset.train, 0, batch["data_index"], 8, 16)
    assert [s["text"] for s in batch["sequences"]] == [dataset.tokenizer.decode(row) for row in ids]
    mean = sum(s["loss"] for s in batch["sequences"]) / 8
    assert mean == pytest.approx(batch["loss"], rel=1e-5)
    worst = batch["worst_tokens"]
    assert [w["loss"] for w in worst] == sorted((w["loss"] for w in worst), reverse=True)
    assert worst[0]["loss"] == batch["token_loss_quantiles"]["1"]
    for token in worst:
        text = batch["sequences"][token["sequence"]]["text"]
        assert text[: token["position"] + 1].endswith(token["before"] + token["token"])


@pytest.mark.parametrize("lang", ["en", "es"])
def test_the_page_holds_everything_and_nothing_that_a_terminal_obeys(drilled, capsys, lang):
    set_language(lang)
    replay_page.run_replay_command(drilled, 52, None, False, False)
    shown = capsys.readouterr().out
    line = line_of(drilled, 52, 2)
    for part in (repr(line["loss"]), repr(line["grad_norm"]), "layers.1", "embed_tokens", "gate"):
        assert part in shown
    assert say("replay.exact") in shown
    assert replay_page.printable("a\x1b[31mb\x07\x9b\tc\r\nd") == "a\ufffd[31mb\ufffd\ufffd\tc\nd"


def test_json_alone_is_on_stdout_and_batch_only_trains_nothing(drilled, capsys, monkeypatch):
    monkeypatch.setattr(train, "restore", None)
    replay_page.run_replay_command(drilled, 25, 1, True, True)
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert [b["data_index"] for b in told["batches"]] == [25, 26]
    assert [b["outcome"] for b in told["batches"]] == ["skipped", "trained"]
    assert len(told["batches"][0]["sequences"]) == 8 and "no step" in err
    replay_page.run_replay_command(drilled, 25, 1, True, False)
    text = capsys.readouterr().out
    assert all(s["text"].splitlines()[0] in text for s in told["batches"][1]["sequences"])


# ---- Bad input


def test_what_cannot_be_replayed_is_refused_in_one_sentence(drilled, make_run):
    before = contents(drilled)
    spiked = folder.events(drilled, "rollback")[0]["from_step"]
    for step, attempt, part in (
        (STEPS, None, f"never came to step {STEPS}: there are steps 0 to {STEPS - 1}"),
        (-1, None, "never came to step -1"),
        (spiked + 1, 1, f"Attempt 1 never came to step {spiked + 1}: its steps are 0 to {spiked}"),
        (3, 2, "Attempt 2 never came to step 3"),
        (3, 7, "no attempt 7; its attempts are 1, 2"),
    ):
        with pytest.raises(UserError) as refused:
            history.find(drilled, step, attempt)
        assert part in str(refused.value)
    assert contents(drilled) == before
    fresh = make_run("fresh", "train.steps=5")
    with pytest.raises(UserError, match="has not begun"):
        history.find(fresh, 0)
    with pytest.raises(UserError, match="is not a run"):
        history.find(fresh / "nowhere", 0)


def test_other_data_and_events_that_do_not_fit_are_refused(drilled):
    manifest = folder.read_json(drilled / folder.MANIFEST)
    events = (drilled / folder.EVENTS).read_text()
    manifest["data"]["fingerprint"] = "0" * 64
    folder.write_json(drilled / folder.MANIFEST, manifest)
    with pytest.raises(UserError, match="not the data"):
        replay.replay(history.find(drilled, 52))
    (drilled / folder.MANIFEST).unlink()
    lost = [e for e in events.splitlines() if '"skip"' not in e.split(",")[0]]
    (drilled / folder.EVENTS).write_text("\n".join(lost) + "\n")
    with pytest.raises(UserError, match="trained on batch"):
        replay.batch_text(history.find(drilled, 52))
    (drilled / folder.EVENTS).write_text(events.replace('"skipped"', '"skopped"'))
    with pytest.raises(UserError, match=r"events\.jsonl"):
        history.find(drilled, 52)
