"""From a stream of facts to published weights: decode, join, label, batch, learn, cut."""
