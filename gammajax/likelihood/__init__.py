"""Log-likelihoods of data sets, as terms of one sum: ln L = Sum over data sets of ln L_d.

Each data set of a posterior is one [`gammajax.likelihood.term.Term`][]. Events have the term of
[`gammajax.likelihood.unbinned`][]; its sums over events are in [`gammajax.likelihood.sums`][]. Counts in bins have that
of [`gammajax.likelihood.binned`][], ON and OFF regions those of [`gammajax.likelihood.on_off`][].
"""

from gammajax.likelihood.binned import Binned as Binned
from gammajax.likelihood.binned import BinnedTerm as BinnedTerm
from gammajax.likelihood.on_off import OnOff as OnOff
from gammajax.likelihood.on_off import OnOffCounts as OnOffCounts
from gammajax.likelihood.sums import accurate_sum as accurate_sum
from gammajax.likelihood.sums import extended_likelihood as extended_likelihood
from gammajax.likelihood.sums import mixture_density as mixture_density
from gammajax.likelihood.sums import mixture_likelihood as mixture_likelihood
from gammajax.likelihood.sums import sum_of_logs as sum_of_logs
from gammajax.likelihood.sums import total_intensity as total_intensity
from gammajax.likelihood.term import Data as Data
from gammajax.likelihood.term import Reference as Reference
from gammajax.likelihood.term import Term as Term
from gammajax.likelihood.unbinned import Unbinned as Unbinned
from gammajax.likelihood.unbinned import UnbinnedTerm as UnbinnedTerm
