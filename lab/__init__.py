"""The lab: command line, supervisor of the node processes, trace store, call-flow ladder, capture and report."""
