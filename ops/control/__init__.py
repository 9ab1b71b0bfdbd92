"""The control process next to each Envoy: discovery of models, Envoy's files, the reaper of lost holds, retention."""
