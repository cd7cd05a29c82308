"""Plain reference forms of the hot parts, written from their definitions: yardsticks for `avs bench` and the tests."""
