"""Cluster items into categories by their titles, for shops whose events carry no category.

Clusters are fitted, with a fixed seed, to the titles known at the end of the train slice. A title that appears later joins
the nearest cluster. A cluster is named after its words with the highest TF-IDF weight. Start at cluster_titles.
"""

from collections.abc import Mapping

NAME_WORDS = 3
MIN_TITLES_PER_CLUSTER = 2
COMPONENTS = 64


def cluster_titles(known: Mapping[str, str], later: Mapping[str, str], *, clusters: int, seed: int) -> dict[str, str]:
    """Return the category of every item: `known` maps items to titles for fitting, `later` to titles for assignment.

    Raises:
        ValueError: there are too few titles for so many clusters.
    """
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer
    from threadpoolctl import threadpool_limits

    items, titles, needed = sorted(known), len(set(known.values())), clusters * MIN_TITLES_PER_CLUSTER
    if titles < needed:
        raise ValueError(
            f"found {titles} distinct titles in the train slice, expected {needed} for {clusters} clusters: give a smaller "
            "--cluster-categories"
        )
    words = TfidfVectorizer(min_df=2, sublinear_tf=True)
    weights = words.fit_transform([known[item] for item in items])
    components = min(COMPONENTS, weights.shape[1] - 1)
    meaning = make_pipeline(TruncatedSVD(components, random_state=seed), Normalizer(copy=False))
    means = KMeans(clusters, n_init=4, random_state=seed)
    with threadpool_limits(1):  # with several threads the order of additions is not fixed
        found = means.fit_predict(meaning.fit_transform(weights))
    vocabulary, names = words.get_feature_names_out(), dict[int, str]()
    for cluster in range(clusters):
        heaviest = np.asarray(weights[found == cluster].sum(axis=0)).ravel().argsort(kind="stable")[::-1][:NAME_WORDS]
        name = "-".join(vocabulary[word] for word in heaviest)[:56]
        names[cluster] = name if name not in names.values() else f"{name}-{cluster}"
    categories = {item: names[int(cluster)] for item, cluster in zip(items, found, strict=True)}
    new = sorted(set(later) - set(known))
    if new:
        placed = means.predict(meaning.transform(words.transform([later[item] for item in new])))
        categories |= {item: names[int(cluster)] for item, cluster in zip(new, placed, strict=True)}
    return dict(sorted(categories.items()))
