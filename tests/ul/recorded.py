"""PDUs as peers sent them: recorded from DCMTK 3.6.7, GDCM 3.0 and Orthanc, zlib and base64."""

import zlib
from base64 import b64decode

_RECORDED = {
    "DCMTK_DCMSEND_RQ": (
        "eNqFj7EKwlAMRc9DdxVxEBd/wJDX1r7iVGktiFir1cGpi///C9pXUCgKJmS4955AYgAzwMC2vK/qrFq+K8+O"
        "9a7MP5o/NYaZlUCSSMWqaiKhWN/t5sPwRGHeB9ZtHHVQkMK0H3plf9uennzZFWzOMISUCyw60sWi4oJQ1Wp7"
        "kJ9Y3A1Gp6LY10375fXQhLF7AfjeJ9c="
    ),
    "DCMTK_ECHOSCU_P_DATA": (
        "eNpjYQACLyB2Y2QGMVmA2ALEYGBiEAKShnpGehYmBnqGBgYGFnqGeoYgKUYmIGEAxAJgFiNIjAPMYgQAxhQEfA=="
    ),
    "DCMTK_ECHOSCU_RQ": (
        "eNqFjLEKwkAQRF/AXi2sbPwBl707yQWryGlQRBM9U1jli/0mvSsUBMG3TDG7s1OQeFDA5nxfxtAt3uzCvo2h"
        "/3j+MIGZESvVSsWoaiVOTJ70KQVPFKbfgXSsfyxtB+sLjKDmCvMcsL4UFW+dqtFUnVWK72HcNs0hDttwuh0H"
        "V/oXOgkfAw=="
    ),
    "DCMTK_GETSCU_RQ": (
        "eNqtW4+HZVUcP6OSJNtYU/trZme3kmTv3nPOvefcK2nX7A9rbbvbzMjKGmPfvHufJ0mSJEmSJEmSJEmSJEmS"
        "JEmSJEmSJEmSJKu/oO57d3ZZO+9+PvGZMcx77/PO53zP+Xy/5/s959wpY8yBGTNlzP7bT+1ZXDgxf+7n8MGl"
        "xYXl8y/nDfi52pgZm7ikyNLEpmlaJD6xo9/mm/0p869Jjdl+ISBvPs6S0Xsu8fuM2Xzhx6NXduO3XfP29EVv"
        "N0z1JS3T7MZMNimbPxXXZZArn9To/+WqLm+5dkziisX4ywKq/hWdk9X8epFR9ZVgAIsGqeK6Ck5WJpusTWCy"
        "bPOPhmow3VLNTZ4soeA3wzH0qjGsZ7A2Qi7iupbgKkXa2Iq1IXLkejs2y4t0WM8SXCIZ9na2XFsnDqGIZxfg"
        "Ec1TdR2QRAgqD+7fgGK7LFbcCARhdbGifxO0SuVSN0OrnMyqPdAqVazdC63ScVnElWay2fIEl2q2cjBbOl1E"
        "wJTJokUJmVQ23QJzzlSkiVvxQuVUmfRtwKqgUvpgP0oDnc6FBwuYTKb2+iCRt6vixWGieFQt+kdwHqgawqPQ"
        "LN10HcPuFUWuXB3HNXEhojqJZktXPC5iKpUGl/EAqtLBO7EuclGJ1T8Fl2JVgL8LLpCq+uo0SmVcIVPgCpaF"
        "imoVUZWyyHSGUKAoMvXWQOUoUkW/gvpTKX0AmKKMaQiZVOnt3ZBJld7eA5lEili7t2XaNjH2qRbf+3CQiBqq"
        "4f0t1fxEqmaimpciAQ4f4OhUIfBBMJCFLBEcPsRZJtJi9TCyLJU52COofnSiTLB+FC8jmcrHHsM1gigWrj0O"
        "4kYIIqInEJEoatRPwqonqOR35qmWa8tGXD5TBcL6aWBSVshSi/oZgkukifpZgktV4z9HcKlSzucJLlHRU79A"
        "cKli4IsEl+ps7iWCS1WkvkxwiXy59wooEUQ81av4cEm13r+GqVQ7F69jKlV+9gZOdEVxcPgml5+J5F69hS1T"
        "SeNtNF+6LYV3MJVKhe9iFarC4HvE1rQqmX4fHluomD4ATLIj4uGHjGvpKq2PGDrZrvvwY4ZOt0X9CQ4cIt0P"
        "PgVnTe28icg+Y8hUR3afM2Sqa2JfMGSidWXwJUMmWjOrr3CNrNLi18xdO5UWv2HIVAvZt2gQdQeE3xF37VS5"
        "7/fYLNEIrv7QUl1zMVXjV6L9oNUfO0icqJDs/QQKE5E39X4GPCJ71n4BG05WdejzKzBIVH33f4N7naqh+x0N"
        "nSgorP7RJWxVxf0nmB/RitT7C/Coyre/URYmO7+qzmIq1VL0D47ZigE8YabnThpzqTH7zB3rzuRiSNIkOp+m"
        "Nm1qj9FfSOKSMbvAAyVmCoGa/8eg+e5HOMaYnZ3PXiCu8UMTuEMZ7tDoMYUxZjd6vgDT+YTpeMgZUEl03BEN"
        "+YwBtcbNdlw3RwCH+ju64A1nHo+yPT/Kne043I5j2rG4HQY0uu/LgGCPiE5neJwJIutTQjgOOnNYN3w3urdJ"
        "oFxC+bzDIEKv1jJsjnL5mBJxsYA9YsJZhi0b3XgjOp2XWIwOKw3Gn/GtLqLPGFNSk5GnKJZl2CpoeGQgHkMs"
        "hrTdneu6D0MMbxxjrsc3UEgcnK7inIPhtjLYVkpENFcQ6shSIjB4NOIhQETEwSWsG7Vj8qE7amR8Ws6AAgNy"
        "DMgyoJIBFQwoZ0CeAUUUFyKR42QEhsmVmIgYSPfxRFu430QEDgVlW84s0BZnFhDiyQjDRiJH4jJq+nKU8rR9"
        "o1COQmUUylOoQMTJnKqsLIXCCRuXi4VINNSSbZu01dn1qStRGMkRoESLh4UpTIFXQ8xiO+2E4TIgAI5LkXCk"
        "SEmj4Vo2ZtPxQ4eOLK4cWDi2dHTFh/gf4jjpRQ=="
    ),
    "DCMTK_STORESCP_ABORT": ("eNpjZwACFgYGJiYAAGoAEA=="),
    "DCMTK_STORESCP_AC": (
        "eNpjYgCCmwyMDAyOfpG6wc4BCjAQHOIf5BrsHArjMxAAAgwMooZ6RnoWJgZ6hgYGBhZ6xnqGIKjIwCANNJ/B"
        "gYFBGFUBiAeWZsYpbRTAwGAVyMDAAlIQBFQKFjQ30zPQMzcyNjAwNABaA8JmeuahDAz8/m5unsHxLs6+Id7x"
        "xmbmACP/H2A="
    ),
    "DCMTK_STORESCP_RJ": ("eNpjZgACFgZGRkYAAEIACw=="),
    "DCMTK_STORESCU_P_DATA": (
        "eNo9TVsOgDAIw2min/v2EKSwl17PE/jhgYW5WNKmaaAsZHiM9zS7XYyXGwq0mworHxksAA4uLJyNlvrKFFyM"
        "8Xe0BhrY/iyiNyWu476cVXvNNwpkiJxo2pL90qRKLwkoEA4="
    ),
    "DCMTK_STORESCU_RQ": (
        "eNqdTssKgkAUPVPRpkVFRESbfqDh+khdGlNBhGk+oFYSJSEEgvr/5QgupEXQudzFecFhAJgAAzan6yoQ3rJB"
        "ELr+LhBRw/EDI2CqcJVbOnGFiCyucUVe1bQY3iBg3g6sK1uvQ6oNTNqmZLLrdP/rSnn8JXtAdAZ6gA0fWNRJ"
        "0+DETVUjUqhaLd/gZgQM3f3+EMRb4YTHWDPMCzDrMAzy2yPNXtkzLUr0i+SeJ+UH95w2hg=="
    ),
    "GDCMSCU_ECHO_RQ": (
        "eNqFjrsKwkAQRU/ALo0W9vmBDDO7a9wysoKNSjSk8Ov9FSeKgiB4h8u87jwqHHcq2J1v7ViG5o3DvpzGMn1y"
        "/mAJa5MgOamYqmaJYrP5pPh+FFbfAm/2P4phgOMFFtBzBXsKQicukdhl1RS9YubOdOtMTo9t4zdVgk1Qz/83"
        "r/QBC00ghA=="
    ),
    "GDCMSCU_STORE_P_DATA": (
        "eNo9TUEOgCAMm2iiR88+YukGCH7PF3jwwRY0bmnTNGs3CecmrmFsciLOJiTIRjZ1rQlqAKpmNU0E3XYyhEbE"
        "+iuZQ89ylt9b0Zui7l8+H7v3mncdSDA7ULxE/vLoLg8JsBAQ"
    ),
    "GDCMSCU_STORE_RQ": (
        "eNqFj7sKwkAQRU/AzkYQC7v8gMPM5uGWkRVsVKIhRf6/8i+cjSik8g7LzmXO3GULXC8KON2nw5D68qvLOd2G"
        "NP48f7SBnUmQWKuYqkapxHL5ZvR8FPZLoPFxPUOhg+1ymJ31cH3ACjqeYDMSWnFIqjaq1lXGzC/Tox+PU++t"
        "8ddVgo2wzj8pP/YNfgEihQ=="
    ),
    "ORTHANC_GET_AC": (
        "eNqN14+LDGEcx/Hn/EiSjuTXcWfPz6Qb8zzPzDOzSegcSTj2Lkm6JEmSJEmSJEmSJEmSJEmSJEmSJEmSJEmS"
        "JEmS/Admd++uxL6/3722du/16ZnvMzPPd54dYowpzTZNxixZvaGj0tldGngt7+qpdPYOfi0Z4TXGmPE2clGe"
        "xJGN4ziPfGSrf+3GTCnGN4uNGfd3oPqtxkOZhzOPYB7JPIp5NHMz81jmcczjmScyT2aewtzKPI25nXkG8yzm"
        "OcxzmecxdzDPZ7bMnjllzpjLzAuYFzIvYl7C3MncxbyceQXzSuZVzGuY1zJXmHuZ1zNvYN7IvIm5j3kz8xbm"
        "rczbmLcz72DeybyLeTfzHua9zPuY9zMfYD7IfIj5MPMR5qPMx5iPM59gPsl8ivk08xnms8znmM8zX2C+yHyJ"
        "+TLzFearzNeYrzPfYL7JfIv5NvMd5rvM95jvMz9gfsj8iPkx8xPmp8zPmJ8zv2B+yfyK+TXzG+a3zO+Y3zN/"
        "YP7I/In5M/MX5q/M35i/M/9g/sn8i/l3Y+42Y9uK7dywamBddStf/NNlIYqjzPk4tnHxe7b6DlHWY0y7af17"
        "jLQYJan94C0Xb2+apFDxuRYqmamNQlkeuVpmWr2c/2Wst9Kx8mKGVi4okQuyxYdaZrppa1yQbv4+0hQeUk2o"
        "rCjcKQbyiSZUn1yrmdzwaFLASfWG0H8K6crLZ9kOnmUcx8njOM04Vh5HE4oTRUVxIlekKDqRz7PiQNbHihvH"
        "iYs59E+clpcbPIeccpFqzTs5pLhfrdUczamWfBYr+mIuVqRpZ4k8s+JYXlF0WpZvRiffaWL/sS5XPTfkTFl1"
        "MdJY6mWJPCtx4pkm4uWIlSP1cttMS8PrpLn9slpmpik1zBTFFF+dMidernxggcljJeJYsaKjuVxxdySxojF4"
        "6YyHICYyubmE/klNNZP+F/JJJA6S5FZegdVQ0IScJmQ1obImlGtCqSbkNaFM6guZYo+TKDKavZKmIwbl8vGK"
        "seS6FR045Kq5pZoHtJV3FmLEKzuMthM5ZS5RXb5U2vLUa1OlnCqVqFJelQqKPpmqfllZVUresOn2YiFTDFQ/"
        "WIuZ8G+mOD8xqStLbSSVAmXp4WHFLUwuPw3lo1icp9gugxSQ+1KmWEiZ6tYojtVrTPOaZctWVPqWdq7qWdnn"
        "Q/YHidIRiw=="
    ),
    "ORTHANC_RELEASE_RP": ("eNpjYwACFhABAABaAAs="),
}

PDUS = {name: zlib.decompress(b64decode(text)) for name, text in _RECORDED.items()}
