"""Networks: building them by name, loading weights, reading their structure and cutting them."""
