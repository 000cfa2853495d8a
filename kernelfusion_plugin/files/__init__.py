"""Pictures from and into files of many kinds."""

from .decode import Picture, decode, load, read_picture
from .encode import WRITABLE, write_picture
from .faults import BadPicture, UnknownFormat, first_line
from .names import ENDINGS, distinct_names, find_pictures, printable

__all__ = ['ENDINGS', 'WRITABLE', 'BadPicture', 'Picture', 'UnknownFormat', 'decode', 'distinct_names', 'find_pictures',
           'first_line', 'load', 'printable', 'read_picture', 'write_picture']
