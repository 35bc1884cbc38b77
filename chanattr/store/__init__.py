"""The run file: HDF5 parts while a run goes on, one netCDF-4 file at its end; read in any state; the only user of h5py."""

from chanattr.store.layout import ImageTable
from chanattr.store.parts import is_of_run
from chanattr.store.run import Run, open_run

__all__ = ["ImageTable", "Run", "is_of_run", "open_run"]
