"""The control loop beside each Envoy: discovery of models, Envoy's files, the reaper of lost holds, retention."""
