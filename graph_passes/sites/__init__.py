"""Attention sites: every spelling of attention becomes one `AttentionSite`."""
