"""Claims of papers, judged by the results of studies: file → comparisons → verdicts → page."""
