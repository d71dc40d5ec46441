"""The fine stage: a DMTet mesh and its texture refined at 512 px, then exported."""
