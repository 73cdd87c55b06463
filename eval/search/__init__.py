"""Search: algorithms behind one ask/tell interface, scorers behind another, and a database that a run goes on from."""
