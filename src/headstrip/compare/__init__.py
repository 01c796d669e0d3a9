"""Compare backbones on labelled images, all in the same way, with verdicts that allow a tie."""
