"""What a kill or damage may not do at a start; the harnesses are benchmarks/kills and damage."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from x1 import checkpoint, data, folder, train
from x1.ranks import Ranks
from x1.text import UserError
from x1.train import Job

MEASURED = Path(__file__).parents[1] / "docs" / "measured"


@pytest.fixture
def make_job(make_run):
    def make(name, *settings):
        run = make_run(name, "train.steps=40", *settings)
        config = folder.open_run(run)
        ranks = Ranks(0, 1, torch.device("cpu"))
        model, network, optimizers = train.assemble(config, ranks)
        dataset = data.open_data(data.path_of(config))
        return Job(run, config, dataset, ranks, model, network, optimizers, micro_batch=8)

    return make


def save(job, step):
    at = train.restore(job)
    at.step, at.attempt = step, 1
    (job.run / folder.METRICS).touch()
    train.save(job, at, "regular")


def test_a_run_from_step_0_has_the_random_state_of_its_seed_not_of_its_process(make_job):
    job = make_job("run")
    states = []
    for process in (1, 2):
        torch.manual_seed(process)  # torch gives each process another
        train.restore(job)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_whole_checkpoint_of_another_run_is_named_and_the_one_before_used(make_job, capsys):
    job, other = make_job("run"), make_job("other", "train.seed=1")
    for step in (10, 20):
        save(job, step)
        save(other, step)
    shutil.rmtree(checkpoint.path_of(job.run, 20))
    shutil.copytree(checkpoint.path_of(other.run, 20), checkpoint.path_of(job.run, 20))
    capsys.readouterr()
    train.start_attempt(job.run)
    said = capsys.readouterr()
    assert "step-00000020 is another run's" in said.err and "step 10" in said.out
    (event,) = folder.events(job.run, "damaged")
    assert (event["path"], event["kind"]) == ("step-00000020", "foreign")
    assert train.restore(job).step == 10


def test_a_changed_configuration_does_not_begin_again_at_step_0(make_job):
    job = make_job("run")
    save(job, 10)
    text = (job.run / folder.CONFIG).read_text()
    (job.run / folder.CONFIG).write_text(text.replace("keep = 2", "keep = 3"))
    with pytest.raises(UserError, match=r"config\.toml or plan\.json is no longer"):
        train.start_attempt(job.run)
    (job.run / folder.CONFIG).write_text(text)
    train.start_attempt(job.run)
    assert train.restore(job).step == 10


def test_nothing_left_to_use_is_said(make_job, capsys):
    job = make_job("run")
    save(job, 10)
    (checkpoint.path_of(job.run, 10) / checkpoint.MODEL).write_bytes(b"")
    train.start_attempt(job.run)
    said = capsys.readouterr().err
    assert "step-00000010 is damaged" in said and "begins again at step 0" in said


def test_other_data_under_the_same_name_is_refused(make_run, trainer, here):
    run = make_run("run", "train.steps=2")
    assert trainer(run).wait(120) == 0
    record = json.loads((run / folder.MANIFEST).read_text())
    record["data"]["fingerprint"] = "0" * 64
    folder.write_json(run / folder.MANIFEST, record)
    process = trainer(run)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and "is not what" in said and "Traceback" not in said


def test_what_the_page_says_of_kills_was_measured():
    record = json.loads((MEASURED / "kills.json").read_text("utf-8"))
    (runs,), (terms,), (disks,) = record["runs"], record["sigterm"], record["full_disk"]
    assert runs["killed"] == sum(row["kills"] for row in record["phases"])
    assert runs["ended"] == runs["identical"] > 0
    assert terms["times"] == terms["saved"] + terms["before_the_loop"] and terms["late"] == 0
    assert disks["times"] == disks["said_so"] == disks["in_a_checkpoint"] + disks["elsewhere"]


def test_what_the_page_says_of_damage_was_measured():
    record = json.loads((MEASURED / "damage.json").read_text("utf-8"))
    (totals,) = record["totals"]
    for row in (*record["harms"], totals):
        assert row["loaded"] == 0 and row["ways"] == row["before_used"] + row["refused"] > 0
    assert totals["ways"] >= 1000
