"""Reads and writes picture files of many formats."""

from .decode import Picture, decode, load, read_picture
from .encode import WRITABLE, check_size, write_picture
from .faults import BadPicture, UnknownFormat
from .names import (
    ENDINGS,
    check_folder_name,
    distinct_names,
    find_pictures,
    first_few,
    may_be_picture,
    pictures_in,
    printable,
)
from .rgb8 import decode_rgb8, read_rgb8
from .saved import as_saved

__all__ = ['ENDINGS', 'WRITABLE', 'BadPicture', 'Picture', 'UnknownFormat', 'as_saved', 'check_folder_name',
           'check_size', 'decode', 'decode_rgb8', 'distinct_names', 'find_pictures', 'first_few', 'load',
           'may_be_picture', 'pictures_in', 'printable', 'read_picture', 'read_rgb8', 'write_picture']
