"""Watch recordings of seglearn's wheel as windows in an NPZ file; needs nothing but Python.

usage: imu.py WHEEL OUTPUT.npz
"""
import io
import pickle
import struct
import sys
import zipfile

WINDOW, STRIDE = 100, 50  # steps of 20 ms


class Dtype:
    """What is needed of numpy.dtype: the letter and the order of the bytes."""

    def __init__(self, name, *_):
        self.name, self.order = name, "<"

    def __setstate__(self, state):
        self.order = ">" if state[1] == ">" else "<"


class Array:
    """What is needed of numpy.ndarray: the shape and the numbers."""

    def __setstate__(self, state):
        _, self.shape, dtype, fortran, data = state
        if isinstance(data, list):  # an array of objects
            self.values = data
            return
        code = {"f8": "d", "f4": "f", "i8": "q", "i4": "i"}[dtype.name]
        count = len(data) // struct.calcsize(code)
        self.values = struct.unpack(f"{dtype.order}{count}{code}", data)
        if fortran and len(self.shape) == 2:
            rows, columns = self.shape
            self.values = [self.values[c * rows + r] for r in range(rows) for c in range(columns)]


class Reader(pickle.Unpickler):
    """Makes these two classes and nothing else: a pickle could run any program otherwise."""

    def find_class(self, module, name):
        known = {"_reconstruct": lambda *_: Array(), "ndarray": Array, "dtype": Dtype, "encode": lambda s, c: s.encode(c)}
        if module.split(".")[0] in ("numpy", "_codecs") and name in known:
            return known[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not expected here")


def read(wheel):
    file = io.BytesIO(zipfile.ZipFile(wheel).read("seglearn/data/watch_dataset.npy"))
    assert file.read(8) == b"\x93NUMPY\x01\x00"
    file.seek(struct.unpack("<H", file.read(2))[0], io.SEEK_CUR)
    return Reader(file, encoding="latin1").load().values[0]


def npy(descr, shape, data):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def main(wheel, output):
    data = read(wheel)
    windows, labels, subjects = [], [], []
    for series, label, subject in zip(data["X"], data["y"].values, data["subject"].values):
        for start in range(0, series.shape[0] - WINDOW + 1, STRIDE):
            values = series.values[start * 6 : (start + WINDOW) * 6]
            windows.append(struct.pack(f"<{len(values)}f", *values))
            labels.append(data["y_labels"][label].encode().ljust(4, b"\0"))
            subjects.append(struct.pack("<i", subject))
    count = len(windows)
    with zipfile.ZipFile(output, "w") as archive:
        for name, array in [
            ("x", npy("<f4", (count, WINDOW, 6), b"".join(windows))),
            ("y", npy("|S4", (count,), b"".join(labels))),
            ("subject", npy("<i4", (count,), b"".join(subjects))),
        ]:
            # A fixed time and no compression, so that equal data gives an equal file.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), array)
    print(f"{count} windows of {WINDOW} steps, {len(set(labels))} exercises, {len(set(subjects))} subjects")


main(*sys.argv[1:])
