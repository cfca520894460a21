"""Loggers that keep nothing, with the properties of the real ones."""

from lightning.pytorch.loggers import Logger


class InFolder(Logger):
    """One with a folder for each run, as TensorBoard's and the CSV one."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    @property
    def name(self):
        return "run"

    @property
    def version(self):
        return 0

    @property
    def log_dir(self):
        return str(self.folder)

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *arguments):
        pass


class Online(InFolder):
    """One that knows where it saves, but has no folder for each run, as those of W&B and MLflow."""

    def __init__(self, save_dir=None, name="project", version=None):
        super().__init__(None)
        self._save_dir, self._name, self._id = save_dir, name, version

    @property
    def log_dir(self):
        return None

    @property
    def save_dir(self):
        return self._save_dir

    @property
    def name(self):
        return self._name

    @property
    def version(self):
        return self._id
