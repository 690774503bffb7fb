"""`python -m pipelines`: run the training pipeline on this machine or on a cluster."""

from pipelines.cli import ablate, catalogue, check_cluster, doctor, images, plan, run, submit
from pipelines.cli.compile import EPILOG as COMPILE_EPILOG
from pipelines.cli.compile import compile_pipeline
from pipelines.cli.runs import runs_app
from pipelines.cli.schedule import schedule_app
from product1m.cli.options import Version, new_app
from product1m.telemetry.logs import set_up_logging

app = new_app("The training pipeline: run it here or on a cluster, now or on a schedule.")


@app.callback()
def _main(version: Version = False) -> None:
    del version  # its callback printed it
    set_up_logging("product1m", "pipelines")


app.command(epilog=run.EPILOG)(run.run)
app.command(name="compile", epilog=COMPILE_EPILOG)(compile_pipeline)
app.command(epilog=catalogue.EPILOG)(catalogue.catalogue)
app.command(name="submit-catalogue", epilog=catalogue.SUBMIT_EPILOG)(catalogue.submit_catalogue)
app.command(epilog=ablate.EPILOG)(ablate.ablate)
app.command(
    epilog="Example: `python -m pipelines submit --dataset s3://product1m/lists --no-cache`"
)(submit.submit)
app.command(epilog=plan.EPILOG)(plan.plan)
app.command(epilog=doctor.EPILOG)(doctor.doctor)
app.command(name="check-cluster", epilog=check_cluster.EPILOG)(check_cluster.check_cluster)
app.add_typer(schedule_app, name="schedule")
app.add_typer(runs_app, name="runs")
app.add_typer(images.app, name="images")


if __name__ == "__main__":
    app()
