"""Sessions: the op library found, checked and registered, feeds checked, layouts exchanged."""
