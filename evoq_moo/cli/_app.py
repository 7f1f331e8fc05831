"""The commands, in the order of the work."""

import typer

from evoq_moo.cli._calibrate import calibrate_command
from evoq_moo.cli._compare import compare_command
from evoq_moo.cli._demo import demo_command
from evoq_moo.cli._evaluate import evaluate_command
from evoq_moo.cli._export import export_command, verify_command
from evoq_moo.cli._models import models_command
from evoq_moo.cli._profile import profile_command
from evoq_moo.cli._report import report_command
from evoq_moo.cli._search import search_command
from evoq_moo.cli._ship import ship_command
from evoq_moo.cli._show import show_command

app = typer.Typer()
app.command("demo")(demo_command)
app.command("models")(models_command)
app.command("profile")(profile_command)
app.command("search")(search_command)
app.command("show")(show_command)
app.command("evaluate")(evaluate_command)
app.command("ship")(ship_command)
app.command("calibrate")(calibrate_command)
app.command("export")(export_command)
app.command("verify")(verify_command)
app.command("report")(report_command)
app.command("compare")(compare_command)
