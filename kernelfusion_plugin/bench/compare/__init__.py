"""``kernelfusion compare``: several methods on the same pictures, scored with the same code, shown side by side.

Data flow: methods (option files) → cases (pictures) → runs → collect (scores) → table, drawings, page.
"""
