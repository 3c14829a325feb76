"""Colours of pages and pictures, light and dark: variables of a style sheet, each named by what it colours."""

THEME = """
:root {
  --page: #f5f6f8; --card: #ffffff; --ink: #1a2029; --soft: #5b6573; --line: #dfe3e8; --grid: #eceff3;
  --accent: #0b63c5; --front: #1a2029; --budget: #b45309; --band: rgba(180, 83, 9, .08); --bar: #d4dae2;
  --hover: #eef3fa;
  --c0: #0b6fc2; --c1: #d1500a; --c2: #0a8f66; --c3: #b8468f; --c4: #b98300; --c5: #6b54c6;
  --c6: #1a8fa6; --c7: #7a828e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1318; --card: #171c23; --ink: #e7ebf0; --soft: #98a3b1; --line: #2b323c; --grid: #222932;
    --accent: #6cb2ff; --front: #e7ebf0; --budget: #f0a04b; --band: rgba(240, 160, 75, .09); --bar: #353e4a;
    --hover: #202833;
    --c0: #5aaeff; --c1: #ff8f50; --c2: #3ecf9a; --c3: #ef86c6; --c4: #ecc14a; --c5: #a996ff;
    --c6: #4fcbe2; --c7: #a2abb8;
  }
}
"""
