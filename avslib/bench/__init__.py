"""Time and memory of the hot parts beside their plain reference forms: `avs bench`."""
