"""stub"""
def predict_graph(hypernetwork, own, flat, initialiser, strict, graph):
    from ghn.anymodel.prediction import predict_leaves
    return predict_leaves(hypernetwork, own if graph is None else graph, flat, initialiser, strict)
