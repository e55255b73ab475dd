"""The console of a lab: a page for the browser of the user who runs it, and the HTTP interface behind it."""
