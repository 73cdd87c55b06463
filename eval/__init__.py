"""What a graph hypernetwork is worth: rankings, statistics, reports."""
