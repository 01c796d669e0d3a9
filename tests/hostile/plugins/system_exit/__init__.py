"""It ends the program that imports it."""

raise SystemExit("this plugin ends your program")
