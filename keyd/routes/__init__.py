"""What keyd answers, one module for each kind of resource; `keyd.server` puts them on the socket."""
