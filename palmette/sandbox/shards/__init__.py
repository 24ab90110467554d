"""More sandboxes than one process can hold: processes with a namespace host each, behind one host."""
