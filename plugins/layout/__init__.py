"""The unified mask layout: which tiles of a mask are kept, and the bitmaps of those kept in part."""
