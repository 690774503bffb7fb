"""`python -m pipelines`: run the training pipeline on this machine or on a cluster."""

from pipelines.cli import ablate, catalogue, check_cluster, doctor, images, plan, run, submit
from pipelines.cli.compile import EPILOG as COMPILE_EPILOG
from pipelines.cli.compile import compile_pipeline
from pipelines.cli.runs import runs_app
from pipelines.cli.schedule import schedule_app
from product1m.cli.options import Version, new_app
from product1m.telemetry.logs import set_up_logging

HERE, CLUSTER = "On this machine", "On a cluster"
BOTH = "On either"
"""Headings of `python -m pipelines --help`."""

app = new_app("The training pipeline: run it here or on a cluster, now or on a schedule.")


@app.callback()
def _main(version: Version = False) -> None:
    del version  # its callback printed it
    set_up_logging("product1m", "pipelines")


app.command(epilog=run.EPILOG, rich_help_panel=HERE)(run.run)
app.command(epilog=catalogue.EPILOG, rich_help_panel=HERE)(catalogue.catalogue)
app.command(epilog=ablate.EPILOG, rich_help_panel=HERE)(ablate.ablate)
app.command(epilog=plan.EPILOG, rich_help_panel=BOTH)(plan.plan)
app.add_typer(runs_app, name="runs", rich_help_panel=BOTH)
app.add_typer(images.app, name="images", rich_help_panel=BOTH)
app.command(epilog=doctor.EPILOG, rich_help_panel=CLUSTER)(doctor.doctor)
app.command(
    epilog="Example: `python -m pipelines submit --dataset s3://product1m/lists --no-cache`",
    rich_help_panel=CLUSTER,
)(submit.submit)
app.command(name="submit-catalogue", epilog=catalogue.SUBMIT_EPILOG, rich_help_panel=CLUSTER)(
    catalogue.submit_catalogue
)
app.add_typer(schedule_app, name="schedule", rich_help_panel=CLUSTER)
app.command(name="compile", epilog=COMPILE_EPILOG, rich_help_panel=CLUSTER)(compile_pipeline)
app.command(name="check-cluster", epilog=check_cluster.EPILOG, rich_help_panel=CLUSTER)(
    check_cluster.check_cluster
)


if __name__ == "__main__":
    app()
