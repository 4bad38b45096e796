"""The lab: a local web application over everything else. Pages draw; this serves them."""
