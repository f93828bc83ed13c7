"""One file per library: how it steers and calibrates. Each runs in its library's own environment."""
