"""People: who somebody is, by (issuer, subject), and which roles the site's mapping of claims gives them."""
