"""``kernelfusion compare``: several methods on the same pictures, scored by the same code, shown side by side.

In the data's order: methods (option files) → cases (pictures) → runs → collect (scores) → table, drawings, page.
"""
